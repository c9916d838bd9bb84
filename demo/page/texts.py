"""Every word of the page, in English and Simplified Chinese."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Self

LANGUAGES = {"en": "English", "zh": "简体中文"}


@dataclass(frozen=True)
class Texts:
    """One language. Fields with {…} are filled in by their users."""

    prompt: str
    prompt_placeholder: str
    format_help: str
    format_description: str
    format_speaker: str
    format_language: str
    format_says: str
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
    drop: str
    local: str
    shared: str
    idle: str
    queued: str
    stopped: str
    failed: str
    done: str
    step_of: str
    left: str
    memory: str
    notes: str
    preview: str
    clip: str
    what_helps: str
    gone: str
    empty_prompt: str
    fix_with: str
    fix_seconds: str
    fix_size: str
    fix_upscale_size: str
    fix_no_upscale: str
    waiting: str
    resume: str
    discard: str
    welcome: str
    welcome_text: str
    free_disk: str
    row_model: str
    row_download: str
    row_disk: str
    row_memory: str
    recommended: str
    does_not_fit: str
    streamed: str
    licences: str
    gated: str
    get: str
    cancel: str
    have_them: str
    have_them_info: str
    use_folder: str
    try_tiny: str
    fetching: str
    cancelled: str
    fetched: str
    restored: str
    choose_image: str
    choose_audio: str
    choose_model: str
    text: str
    voice_stage: str
    image: str
    denoise: str
    upscale_stage: str
    sound: str
    picture: str
    save: str

    def stage(self, name: str) -> str:
        """The name of a run's stage, as `State` calls it."""
        named = {"voice": self.voice_stage, "upscale": self.upscale_stage}
        return named.get(name) or str(getattr(self, name, name))

    @classmethod
    def of(cls, language: str | None) -> Self:
        """The texts of a language; English where it is not known."""
        chosen = CHINESE if language == "zh" else ENGLISH
        return cls(**{field.name: chosen[field.name] for field in fields(cls)})


ENGLISH = {
    "prompt": "What happens?",
    "prompt_placeholder": "A chestnut horse trots along a beach at sunrise. It turns to the camera and says: "
    "“Good morning!”",
    "format_help": "Format help",
    "format_description": "Description: appearance, setting, then what happens in order",
    "format_speaker": "Who speaks (about five words)",
    "format_language": "Language",
    "format_says": "What is said",
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
    "lock_seed": "Keep this seed",
    "steps": "Steps",
    "guidance": "Guidance scale (1 = off)",
    "negative_prompt": "Negative prompt",
    "language": "Language",
    "reuse": "↺ Reuse settings",
    "again": "Again, new seed",
    "upscale": "⬆ Upscale",
    "copy_command": "Copy as command",
    "copy_python": "Copy as Python",
    "download": "Download",
    "history": "History",
    "drop": "Restore settings from a clip (mp4)",
    "local": "this computer only",
    "shared": "open to others",
    "idle": "Your clip will appear here.",
    "queued": "In the queue, place {place}.",
    "stopped": "Stopped.",
    "failed": "This did not work",
    "done": "Done.",
    "step_of": "Step {step} of {steps}",
    "left": "{time} left",
    "memory": "{size} in use",
    "notes": "Notes",
    "preview": "Preview of the clip so far",
    "clip": "The finished clip",
    "what_helps": "What helps:",
    "gone": "The server was restarted. Clips that were waiting can be resumed below.",
    "empty_prompt": "Say what should be seen and heard: a prompt is required.",
    "fix_with": "Use {change}",
    "fix_seconds": "{seconds:g} seconds",
    "fix_size": "{width}×{height}",
    "fix_upscale_size": "upscaling to {width}×{height}",
    "fix_no_upscale": "no upscaling",
    "waiting": "{count} clip(s) were waiting when the server ended.",
    "resume": "Resume",
    "discard": "Discard",
    "welcome": "One download and you are ready",
    "welcome_text": "HappyHorse needs its weights once. A download that is interrupted resumes where it was.",
    "free_disk": "{size} free on this disk.",
    "row_model": "Variant",
    "row_download": "Download",
    "row_disk": "On disk",
    "row_memory": "Memory for 5 s",
    "recommended": "recommended",
    "does_not_fit": "too large for this machine",
    "streamed": "streamed from disk (slower)",
    "licences": "Licences",
    "gated": "{repo}: accept its licence on its page, then log in with “hf auth login”.",
    "get": "Download {size}",
    "cancel": "Cancel",
    "have_them": "I already have them",
    "have_them_info": "Folder of a converted model",
    "use_folder": "Use this folder",
    "try_tiny": "Try the tiny model",
    "fetching": "Downloading: {done} of {total}",
    "cancelled": "Cancelled. What was fetched is kept; Download resumes there.",
    "fetched": "Ready: {model}",
    "restored": "Settings restored.",
    "choose_image": "It had a first frame ({name}): choose it above.",
    "choose_audio": "It had a voice ({name}): choose it above.",
    "choose_model": "It was made with the model {name}, which is not on this machine.",
    "text": "Text",
    "voice_stage": "Voice",
    "image": "First frame",
    "denoise": "Denoise",
    "upscale_stage": "Upscale",
    "sound": "Sound",
    "picture": "Picture",
    "save": "Save",
}

CHINESE = {
    "prompt": "画面里发生什么？",
    "prompt_placeholder": "日出时，一匹栗色的马沿着海滩小跑。它转向镜头说：“早上好！”",
    "format_help": "格式帮助",
    "format_description": "描述：外观、场景，然后按顺序写发生的事",
    "format_speaker": "说话的人（约五个词）",
    "format_language": "语言",
    "format_says": "说的话",
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
    "drop": "从视频（mp4）恢复设置",
    "local": "仅限本机",
    "shared": "对他人开放",
    "idle": "视频会出现在这里。",
    "queued": "排队中，第 {place} 位。",
    "stopped": "已停止。",
    "failed": "未能完成",
    "done": "完成。",
    "step_of": "第 {step} 步，共 {steps} 步",
    "left": "剩余 {time}",
    "memory": "占用 {size}",
    "notes": "提示",
    "preview": "当前预览",
    "clip": "完成的视频",
    "what_helps": "解决办法：",
    "gone": "服务器已重启。未完成的视频可在下方继续。",
    "empty_prompt": "请写下要看到和听到的内容：提示词不能为空。",
    "fix_with": "改为{change}",
    "fix_seconds": "{seconds:g} 秒",
    "fix_size": "{width}×{height}",
    "fix_upscale_size": "放大到 {width}×{height}",
    "fix_no_upscale": "不放大",
    "waiting": "服务器结束时还有 {count} 个视频在排队。",
    "resume": "继续",
    "discard": "放弃",
    "welcome": "下载一次即可开始",
    "welcome_text": "HappyHorse 只需下载一次权重。中断的下载会从断点继续。",
    "free_disk": "磁盘剩余 {size}。",
    "row_model": "版本",
    "row_download": "下载",
    "row_disk": "占用磁盘",
    "row_memory": "5 秒所需内存",
    "recommended": "推荐",
    "does_not_fit": "本机内存不够",
    "streamed": "从磁盘流式读取（较慢）",
    "licences": "许可",
    "gated": "{repo}：请在其页面接受许可，然后运行 “hf auth login” 登录。",
    "get": "下载 {size}",
    "cancel": "取消",
    "have_them": "我已有权重",
    "have_them_info": "已转换模型的文件夹",
    "use_folder": "使用此文件夹",
    "try_tiny": "试用微型模型",
    "fetching": "正在下载：{done} / {total}",
    "cancelled": "已取消。已下载的部分保留，再次下载会从那里继续。",
    "fetched": "就绪：{model}",
    "restored": "设置已恢复。",
    "choose_image": "它有首帧（{name}）：请在上方选择。",
    "choose_audio": "它有声音（{name}）：请在上方选择。",
    "choose_model": "它用的模型 {name} 不在本机上。",
    "text": "文本",
    "voice_stage": "声音输入",
    "image": "首帧",
    "denoise": "去噪",
    "upscale_stage": "放大",
    "sound": "声音",
    "picture": "画面",
    "save": "保存",
}
