"""Styles of the page, and the few scripts that run in the browser."""

from __future__ import annotations

import gradio as gr

FONTS = ["system-ui", "-apple-system", "Segoe UI", "Noto Sans SC", "sans-serif"]


def theme() -> gr.Theme:
    """Return an orange theme with system fonts: nothing is loaded from other hosts."""
    return gr.themes.Base(
        primary_hue="orange",
        neutral_hue="stone",
        font=FONTS,
        font_mono=["ui-monospace", "Menlo", "monospace"],
        radius_size="md",
    ).set(
        button_primary_background_fill="#c2410c",
        button_primary_background_fill_hover="#9a3412",
        button_primary_background_fill_dark="#c2410c",
        button_primary_background_fill_hover_dark="#9a3412",
        button_primary_text_color="white",
        checkbox_label_background_fill_selected="#c2410c",
        checkbox_label_background_fill_selected_dark="#c2410c",
        checkbox_label_text_color_selected="white",
        checkbox_label_text_color_selected_dark="white",
        block_label_text_color="*body_text_color",
        block_title_text_color="*body_text_color",
        input_placeholder_color="#6b6560",
        input_placeholder_color_dark="#a8a29e",
    )


CSS = """
.gradio-container { max-width: 1400px !important; width: 100%; margin: 0 auto; }
.gradio-container main { width: 100%; }
.hh-columns .html-container { padding: 0 !important; }
footer { display: none !important; }
.hh-header { display: flex; align-items: center; justify-content: space-between; gap: 12px; flex-wrap: wrap; }
.hh-header h1 { font-size: 20px; font-weight: 700; margin: 0; }
.hh-header h1 span { font-weight: 400; opacity: .7; }
.hh-pill { border: 1px solid var(--border-color-primary); border-radius: 999px; padding: 4px 12px;
  font-size: 12px; display: inline-flex; gap: 8px; align-items: center; }
.hh-pill::before { content: ""; width: 8px; height: 8px; border-radius: 50%; background: #16a34a; }
.hh-pill[data-shared="true"]::before { background: #d97706; }
#language { min-width: 120px; max-width: 150px; }
#prompt textarea { font-size: 15px; line-height: 1.5; }
.min_value, .max_value, .or { color: var(--body-text-color) !important; }
#restore { min-height: 0; }
#shape input, #quality input, #offer input { position: absolute; opacity: 0; width: 1px; height: 1px; }
#shape .wrap, #quality .wrap { gap: 4px; }
#shape label, #quality label { padding: 6px 11px; }
#shape label > span, #quality label > span { margin: 0; }
#shape label:focus-within, #quality label:focus-within, #offer label:focus-within {
  outline: 2px solid #ea580c; outline-offset: 2px; }
#estimate { border-radius: 10px; padding: 9px 14px; font-size: 14px; border: 1px solid transparent; }
#estimate[data-state=green] { background: #dcfce7; color: #14532d; }
#estimate[data-state=amber] { background: #fef3c7; color: #713f12; }
#estimate[data-state=red] { background: #fee2e2; color: #7f1d1d; }
.dark #estimate[data-state=green] { background: #10251a; color: #bbf7d0; }
.dark #estimate[data-state=amber] { background: #2e2208; color: #fde68a; }
.dark #estimate[data-state=red] { background: #331313; color: #fecaca; }
#generate, #stop { min-height: 46px; font-size: 16px; }
#stage { border: 1px solid var(--border-color-primary); border-radius: 12px; padding: 12px;
  background: var(--background-fill-secondary); min-height: 300px; display: flex; flex-direction: column;
  justify-content: center; gap: 10px; }
#stage #preview, #stage video { width: 100%; max-height: 400px; object-fit: contain; border-radius: 8px;
  background: #000; margin: 0; display: block; }
#stage .hh-empty { flex: 1; min-height: 200px; display: grid; place-items: center;
  color: var(--body-text-color); opacity: .85; }
.hh-bar { height: 8px; border-radius: 4px; background: var(--border-color-primary); overflow: hidden; }
.hh-bar div { height: 100%; background: #ea580c; transition: width .4s linear; }
.hh-stages { display: flex; flex-wrap: wrap; gap: 4px 14px; list-style: none; margin: 0; padding: 0;
  font-size: 13px; }
.hh-stages li { margin: 0; color: var(--body-text-color); }
.hh-stages .past::before { content: "✓ "; }
.hh-stages .now { font-weight: 700; }
.hh-stages .next { color: var(--body-text-color-subdued); }
.hh-line { margin: 0; font-size: 14px; font-variant-numeric: tabular-nums; }
#error { border-left: 4px solid #dc2626; padding: 6px 14px; }
#error p { margin: 4px 0 0; }
.hh-notes { margin: 0; padding-left: 18px; font-size: 13px; color: var(--body-text-color); }
.hh-history { display: flex; flex-wrap: wrap; gap: 8px; }
.hh-history button { padding: 0; border: 2px solid transparent; border-radius: 8px; overflow: hidden;
  background: #000; cursor: pointer; height: 76px; }
.hh-history button:hover, .hh-history button:focus-visible { border-color: #ea580c; }
.hh-history img { height: 72px; margin: 0; display: block; }
.hh-title { font-size: 13px; margin: 0 0 6px; font-weight: 600; }
#first-run { border: 1px solid var(--border-color-primary); border-radius: 12px; padding: 16px; }
#first-run h2 { margin: 0 0 4px; font-size: 19px; }
#first-run table { border-collapse: collapse; font-size: 14px; width: 100%; }
#first-run td, #first-run th { padding: 3px 12px 3px 0; text-align: left; border: 0;
  border-bottom: 1px solid var(--border-color-primary); }
#first-run th { font-weight: 600; }
#first-run details { font-size: 13px; margin-top: 6px; }
#first-run > .gap, #first-run { gap: 8px; }
#offer { border: 0; padding: 0; }
#offer label { padding: 6px 11px; }
#first-run .hh-table { overflow-x: auto; }
.hh-actions { display: grid !important; grid-template-columns: repeat(3, 1fr); gap: 8px !important; }
.hh-actions.hide, .hh-actions.hidden { display: none !important; }
#hh-toast { position: fixed; bottom: 20px; left: 50%; transform: translateX(-50%); background: #1c1917;
  color: #fff; padding: 8px 16px; border-radius: 8px; opacity: 0; transition: opacity .2s; z-index: 99;
  pointer-events: none; }
#hh-toast.on { opacity: 1; }
:focus-visible { outline: 2px solid #ea580c !important; outline-offset: 2px; }
#estimate[data-state=none] { background: var(--background-fill-secondary); }
@media (max-width: 720px) {
  .hh-pill { border-radius: 10px; }
  .hh-top { flex-wrap: wrap !important; }
  .hh-top > :first-child { flex: 1 1 100% !important; }
  .gradio-container { padding: 8px !important; }
  .hh-columns { flex-direction: column !important; }
  .hh-columns > * { min-width: 0 !important; width: 100% !important; }
}
"""

# Keyboard shortcuts (⌘↵ generates, Esc stops), and a toast when text was copied to the clipboard.
HEAD = """
<script>
(() => {
  const press = (id) => { const b = document.getElementById(id); if (b && !b.disabled) b.click(); };
  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.metaKey || event.ctrlKey)) {
      event.preventDefault();
      document.activeElement.dispatchEvent(new Event("change", {bubbles: true}));
      setTimeout(() => press("generate"), 50);
    } else if (event.key === "Escape" && !document.querySelector("[role=listbox]")) press("stop");
  });
  window.happyhorseCopy = async (text) => {
    try { await navigator.clipboard.writeText(text); }
    catch (_) {
      const area = document.createElement("textarea");
      area.value = text; document.body.append(area); area.select();
      document.execCommand("copy"); area.remove();
    }
    let toast = document.getElementById("hh-toast");
    if (!toast) {
      toast = document.createElement("div");
      toast.id = "hh-toast"; toast.setAttribute("role", "status"); document.body.append(toast);
    }
    toast.textContent = "✓"; toast.classList.add("on");
    setTimeout(() => toast.classList.remove("on"), 1500);
  };
})();
</script>
"""

COPY = "(text) => { window.happyhorseCopy(text); }"
CLICKED = """
element.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button) trigger("click", {name: button.dataset.name});
});
"""
