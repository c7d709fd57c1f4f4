"""Recipes: a params file under a name, or anywhere.

python -m flows.recipe tiny                 # copy it over params.yaml; so do tiny.yaml, recipes/tiny.yaml and any other path
python -m flows.distill --recipe tiny       # run it in a workspace of its own, saved as an experiment
"""

from flows.repository.workspace import repository_root
from flows.run.recipes import use
from stillhouse.core.command_errors import one_line_errors
from stillhouse.core.options import Options


def main() -> None:
    parser = Options("flows.recipe", "Copy a recipe over params.yaml.")
    parser.add_argument("name", help="a recipe in recipes/, or the path of a params file")
    arguments = parser.parse_args()
    with one_line_errors("recipe"):
        print(use(repository_root(), arguments.name))


if __name__ == "__main__":
    main()
