"""Write the pages of the reference anew: `python -m pipelines.manual`."""

from pipelines.manual import HERE
from pipelines.manual.reference import made

if __name__ == "__main__":
    for name, text in made().items():
        path = HERE / "reference" / f"{name}.md"
        if not path.exists() or path.read_text("utf-8") != text:
            path.write_text(text, "utf-8")
            print(path.relative_to(HERE.parents[1]))
