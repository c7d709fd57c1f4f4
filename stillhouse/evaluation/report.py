from pathlib import Path
def write_report(title, path: Path):
    path.write_text(f"<h1>{title}</h1>")
