"""Style for Gitea's pages, so that a screenshot shows what people see.

Gitea's Go module has the sources of its style sheets and no built ones. Browsers read these sources. Tailwind
would generate the utility classes (`tw-…`): here are those that issues and pull requests use. There are no
scripts, so menus do not open.
"""

import json
from pathlib import Path

_ENTRY = "web_src/js/index.ts"
_THEMES = ("gitea-auto", "gitea-dark", "gitea-light")
_SIDES = {
    **{"": ("",), "t": ("-top",), "r": ("-right",), "b": ("-bottom",), "l": ("-left",)},
    **{"x": ("-left", "-right"), "y": ("-top", "-bottom")},
}
_RULES = {
    "align-middle": "vertical-align: middle",
    "contents": "display: contents",
    "flex": "display: flex",
    "flex-1": "flex: 1 1 0%",
    "flex-col": "flex-direction: column",
    "flex-wrap": "flex-wrap: wrap",
    "font-mono": "font-family: var(--fonts-monospace)",
    "font-normal": "font-weight: var(--font-weight-normal)",
    "font-semibold": "font-weight: var(--font-weight-semibold)",
    "gap-1": "gap: 4px",
    "gap-2": "gap: 8px",
    "hidden": "display: none",
    "inline-block": "display: inline-block",
    "invisible": "visibility: hidden",
    "items-center": "align-items: center",
    "justify-between": "justify-content: space-between",
    "justify-center": "justify-content: center",
    "justify-end": "justify-content: flex-end",
    "line-through": "text-decoration: line-through",
    "ml-auto": "margin-left: auto",
    "no-underline": "text-decoration: none",
    "relative": "position: relative",
    "shrink-0": "flex-shrink: 0",
    "text-center": "text-align: center",
    "text-green": "color: var(--color-green)",
    "text-red": "color: var(--color-red)",
    "text-right": "text-align: right",
    "text-text-light": "color: var(--color-text-light)",
    "text-white": "color: white",
    "text-xs": "font-size: 12px",
    "w-full": "width: 100%",
}


def write_styles(custom: Path, static: Path) -> None:
    """Put the style sheets where Gitea looks for what an installation adds to its own files.

    Args:
        custom: Gitea's CUSTOM_PATH.
        static: the folder that holds `web_src/css`.
    """
    assets = custom / "public" / "assets"
    (assets / ".vite").mkdir(parents=True, exist_ok=True)
    manifest = {
        _ENTRY: {"file": "js/index.js", "name": "index", "css": ["source/index.css", "utilities.css"]}
    }
    for theme in _THEMES:
        file = f"css/theme-{theme}.css"
        manifest[f"web_src/{file.replace('css/', 'css/themes/')}"] = {"file": file, "name": f"theme-{theme}"}
    (assets / ".vite" / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    (assets / "utilities.css").write_text(_utilities(), encoding="utf-8")
    # Without it each page says in an alert, for which a browser waits, that its scripts are missing.
    (assets / "js").mkdir(exist_ok=True)
    (assets / "js" / "index.js").write_text("window.config.frontendInited = true;\n", encoding="utf-8")
    for name, target in (("source", "web_src/css"), ("css", "web_src/css/themes")):
        (assets / name).unlink(missing_ok=True)
        (assets / name).symlink_to(static / target)


def _utilities() -> str:
    rules = dict(_RULES)
    for short, name in (("m", "margin"), ("p", "padding")):
        for side, ends in _SIDES.items():
            for size in range(6):
                rules[f"{short}{side}-{size}"] = "; ".join(f"{name}{end}: {4 * size}px" for end in ends)
    lines = (
        f".tw-{name} {{ {'; '.join(f'{part} !important' for part in rule.split('; '))} }}"
        for name, rule in sorted(rules.items())
    )
    return "\n".join(lines) + "\n"
