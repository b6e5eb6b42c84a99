"""Write the model cards of the shipped bundles in their present form: `python docs/make_cards.py`.

Weights, metadata and measurements stay: how it was trained and what was measured is taken from the card itself, the
rest from task, recipe and `bundles/card.py`.
"""

from __future__ import annotations

from pathlib import Path

from VFMTransferLib.bundles.bundle import read_bundle
from VFMTransferLib.bundles.card import card_sections, model_card
from VFMTransferLib.training.recipes import read_recipe

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Write each card again; a second time changes nothing."""
    recipes = {r.name: r for r in map(read_recipe, sorted((ROOT / "Resources" / "Training").glob("*.json")))}
    for folder in sorted((ROOT / "Resources" / "Bundles").iterdir()):
        if folder.is_dir():
            bundle = read_bundle(folder)
            recipe = recipes[folder.name.removesuffix(f"-{bundle.arm}")]
            old = card_sections(bundle.card_path.read_text(encoding="utf-8"))
            trained = old["Training"].split("\n\n")[0]
            card = model_card(
                bundle,
                population=recipe.population,
                training=(trained, recipe.attribution),
                measured=(old["Validation and performance"].rstrip(),),
                limits=recipe.limits,
            )
            bundle.card_path.write_text(card, encoding="utf-8")


if __name__ == "__main__":
    main()
