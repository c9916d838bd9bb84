"""All texts of the page, in English and Simplified Chinese."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Self

LANGUAGES = {"en": "English", "zh": "简体中文"}


@dataclass(frozen=True)
class Texts:
    """The texts of one language. Those with {…} are templates for str.format."""

    prompt: str
    prompt_placeholder: str
    format_help: str
    format_description: str
    format_speaker: str
    format_language: str
    format_words: str
    format_sound: str
    format_write: str
    inputs: str
    first_frame: str
    voice: str
    shape: str
    seconds: str
    quality: str
    draft: str
    upscaled: str
    generate: str
    stop: str
    advanced: str
    model: str
    seed: str
    lock_seed: str
    steps: str
    guidance: str
    negative_prompt: str
    language: str
    reuse: str
    again: str
    upscale: str
    copy_command: str
    copy_python: str
    download: str
    history: str
    restore_file: str
    local_only: str
    shared: str
    idle: str
    queued: str
    stopped: str
    failed: str
    step_of: str
    left: str
    memory: str
    notes: str
    preview: str
    clip: str
    restarted: str
    clip_missing: str
    empty_prompt: str
    fix_with: str
    fix_seconds: str
    fix_size: str
    fix_upscale_size: str
    fix_no_upscale: str
    unfinished: str
    resume: str
    discard: str
    welcome: str
    welcome_text: str
    free_disk: str
    column_variant: str
    column_download: str
    column_disk: str
    column_memory: str
    recommended: str
    does_not_fit: str
    streamed: str
    licences: str
    gated: str
    download_weights: str
    cancel_download: str
    own_weights: str
    own_folder: str
    use_folder: str
    try_tiny: str
    downloading: str
    cancelled: str
    downloaded: str
    restored: str
    choose_image: str
    choose_audio: str
    choose_model: str
    stage_text: str
    stage_voice: str
    stage_image: str
    stage_denoise: str
    stage_upscale: str
    stage_sound: str
    stage_picture: str
    stage_save: str

    def stage(self, name: str) -> str:
        """Return what the page calls a stage of a run."""
        return str(getattr(self, f"stage_{name}", name))

    @classmethod
    def of(cls, language: str | None) -> Self:
        """Return the texts of a language; English if it is unknown."""
        texts = CHINESE if language == "zh" else ENGLISH
        return cls(**{field.name: texts[field.name] for field in fields(cls)})


ENGLISH = {
    "prompt": "Prompt",
    "prompt_placeholder": "A chestnut horse trots along a beach at sunrise. It turns to the camera and says: "
    "“Good morning!”",
    "format_help": "Format help",
    "format_description": "Description: appearance and setting, then the action in order",
    "format_speaker": "Speaker (about five words)",
    "format_language": "Language",
    "format_words": "Spoken words",
    "format_sound": "Background sound",
    "format_write": "Write the prompt",
    "inputs": "First frame or voice",
    "first_frame": "First frame (sets the shape)",
    "voice": "Voice to lip-sync (sets the length)",
    "shape": "Shape",
    "seconds": "Seconds",
    "quality": "Quality",
    "draft": "Draft",
    "upscaled": "Upscaled to {size}",
    "generate": "Generate  ⌘↵",
    "stop": "Stop  Esc",
    "advanced": "Advanced",
    "model": "Model",
    "seed": "Seed",
    "lock_seed": "Lock seed",
    "steps": "Steps",
    "guidance": "Guidance scale (1 = off)",
    "negative_prompt": "Negative prompt",
    "language": "Language",
    "reuse": "↺ Reuse settings",
    "again": "Again with a new seed",
    "upscale": "⬆ Upscale",
    "copy_command": "Copy as command",
    "copy_python": "Copy as Python",
    "download": "Download",
    "history": "History",
    "restore_file": "Restore settings from a clip (mp4)",
    "local_only": "this computer only",
    "shared": "open to others",
    "idle": "Your clip will appear here.",
    "queued": "Position {place} in the queue.",
    "stopped": "Stopped.",
    "failed": "This did not work",
    "step_of": "Step {step} of {steps}",
    "left": "{time} left",
    "memory": "{size} in use",
    "notes": "Notes",
    "preview": "Preview of the clip so far",
    "clip": "Finished clip",
    "restarted": "The server has restarted. Unfinished clips can be resumed below.",
    "clip_missing": "This clip is no longer in the history.",
    "empty_prompt": "A prompt is required: describe what to see and hear.",
    "fix_with": "Use {change}",
    "fix_seconds": "{seconds:g} seconds",
    "fix_size": "{width}×{height}",
    "fix_upscale_size": "upscaling to {width}×{height}",
    "fix_no_upscale": "no upscaling",
    "unfinished": "Unfinished clips from the last session: {count}.",
    "resume": "Resume",
    "discard": "Discard",
    "welcome": "One download to get started",
    "welcome_text": "HappyHorse downloads its weights once. An interrupted download can be resumed.",
    "free_disk": "{size} free on this disk.",
    "column_variant": "Variant",
    "column_download": "Download",
    "column_disk": "On disk",
    "column_memory": "Memory for 5 s",
    "recommended": "recommended",
    "does_not_fit": "too large for this machine",
    "streamed": "streamed from disk (slower)",
    "licences": "Licences",
    "gated": "{repo}: accept the licence on its Hugging Face page, then log in with “hf auth login”.",
    "download_weights": "Download {size}",
    "cancel_download": "Cancel",
    "own_weights": "I already have the weights",
    "own_folder": "Folder of a converted model",
    "use_folder": "Use this folder",
    "try_tiny": "Try the tiny model",
    "downloading": "Downloading: {done} of {total}",
    "cancelled": "Cancelled. Finished parts are kept; download again to resume.",
    "downloaded": "Ready: {model}",
    "restored": "Settings restored.",
    "choose_image": "The clip used a first frame ({name}): choose it above.",
    "choose_audio": "The clip used a voice ({name}): choose it above.",
    "choose_model": "The clip was generated with {name}, which is not on this machine.",
    "stage_text": "Text",
    "stage_voice": "Voice",
    "stage_image": "First frame",
    "stage_denoise": "Denoise",
    "stage_upscale": "Upscale",
    "stage_sound": "Sound",
    "stage_picture": "Picture",
    "stage_save": "Save",
}

CHINESE = {
    "prompt": "画面里发生什么？",
    "prompt_placeholder": "日出时，一匹栗色的马沿着海滩小跑。它转向镜头说：“早上好！”",
    "format_help": "格式帮助",
    "format_description": "描述：外观、场景，然后按顺序写发生的事",
    "format_speaker": "说话的人（约五个词）",
    "format_language": "语言",
    "format_words": "说的话",
    "format_sound": "背景声音",
    "format_write": "写入提示词",
    "inputs": "首帧或声音",
    "first_frame": "首帧（决定画幅）",
    "voice": "对口型的声音（决定时长）",
    "shape": "画幅",
    "seconds": "秒数",
    "quality": "质量",
    "draft": "草稿",
    "upscaled": "放大到 {size}",
    "generate": "生成  ⌘↵",
    "stop": "停止  Esc",
    "advanced": "高级",
    "model": "模型",
    "seed": "随机种子",
    "lock_seed": "保持这个种子",
    "steps": "步数",
    "guidance": "引导强度（1 = 关闭）",
    "negative_prompt": "负面提示词",
    "language": "界面语言",
    "reuse": "↺ 使用这些设置",
    "again": "换种子再来一次",
    "upscale": "⬆ 放大",
    "copy_command": "复制为命令",
    "copy_python": "复制为 Python",
    "download": "下载",
    "history": "历史",
    "restore_file": "从视频（mp4）恢复设置",
    "local_only": "仅限本机",
    "shared": "对他人开放",
    "idle": "视频会出现在这里。",
    "queued": "排队中，第 {place} 位。",
    "stopped": "已停止。",
    "failed": "未能完成",
    "step_of": "第 {step} 步，共 {steps} 步",
    "left": "剩余 {time}",
    "memory": "占用 {size}",
    "notes": "提示",
    "preview": "当前预览",
    "clip": "完成的视频",
    "restarted": "服务器已重启。未完成的视频可在下方继续。",
    "clip_missing": "这个视频已不在历史记录中。",
    "empty_prompt": "请写下要看到和听到的内容：提示词不能为空。",
    "fix_with": "改为{change}",
    "fix_seconds": "{seconds:g} 秒",
    "fix_size": "{width}×{height}",
    "fix_upscale_size": "放大到 {width}×{height}",
    "fix_no_upscale": "不放大",
    "unfinished": "服务器结束时还有 {count} 个视频在排队。",
    "resume": "继续",
    "discard": "放弃",
    "welcome": "下载一次即可开始",
    "welcome_text": "HappyHorse 只需下载一次权重。中断的下载会从断点继续。",
    "free_disk": "磁盘剩余 {size}。",
    "column_variant": "版本",
    "column_download": "下载",
    "column_disk": "占用磁盘",
    "column_memory": "5 秒所需内存",
    "recommended": "推荐",
    "does_not_fit": "本机内存不够",
    "streamed": "从磁盘流式读取（较慢）",
    "licences": "许可",
    "gated": "{repo}：请在其页面接受许可，然后运行 “hf auth login” 登录。",
    "download_weights": "下载 {size}",
    "cancel_download": "取消",
    "own_weights": "我已有权重",
    "own_folder": "已转换模型的文件夹",
    "use_folder": "使用此文件夹",
    "try_tiny": "试用微型模型",
    "downloading": "正在下载：{done} / {total}",
    "cancelled": "已取消。已下载的部分保留，再次下载会从那里继续。",
    "downloaded": "就绪：{model}",
    "restored": "设置已恢复。",
    "choose_image": "它有首帧（{name}）：请在上方选择。",
    "choose_audio": "它有声音（{name}）：请在上方选择。",
    "choose_model": "它用的模型 {name} 不在本机上。",
    "stage_text": "文本",
    "stage_voice": "声音输入",
    "stage_image": "首帧",
    "stage_denoise": "去噪",
    "stage_upscale": "放大",
    "stage_sound": "声音",
    "stage_picture": "画面",
    "stage_save": "保存",
}
