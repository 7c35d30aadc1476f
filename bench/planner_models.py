"""Write the shapes that are built in: `python -m bench.planner_models --models DIR`.

DIR holds `config.json` files as `<org>__<model>.json`. One that gives no shape is left out, and the
reason is printed.
"""

import json
from pathlib import Path

import click

import kvarn.planner
from kvarn.planner import PlannerError, read_shape
from kvarn.planner.catalogue import FILE

PARTIAL = ("__quoted", "__text_config_fragment")
"""Endings of copies that are not whole."""


@click.command()
@click.option(
    "--models", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True
)
def main(models: Path) -> None:
    """Write kvarn/planner/models.json."""
    shapes = {}
    for path in sorted(models.glob("*__*.json"), key=lambda path: path.stem.lower()):
        if path.stem.endswith(PARTIAL):
            continue
        try:
            shapes[path.stem.replace("__", "/", 1)] = read_shape(path).to_dict()
        except PlannerError as error:
            click.echo(f"{path.stem}: {error.message}", err=True)
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(shape)}" for name, shape in shapes.items())
    target = Path(kvarn.planner.__file__).with_name(FILE)
    target.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
