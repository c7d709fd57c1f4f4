from typing import Any

TEMPLATE = "x"


def show_language(params: dict[str, Any]) -> dict[str, Any]:
    return {}
