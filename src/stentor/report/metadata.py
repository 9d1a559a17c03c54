"""The head of a model card: what the hub reads, `model-index` among it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from stentor.report.decoding import answered_for

Figures = Mapping[str, Any]

# The less a licence allows, the later; what is not here is not known to us.
_STRICTNESS = (
    ("apache-2.0", "mit", "cc0-1.0", "bsd-3-clause", "unlicense"),
    ("odc-by", "cc-by-3.0", "cc-by-4.0"),
    ("cc-by-sa-3.0", "cc-by-sa-4.0", "gfdl"),
    ("cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0"),
)
OTHER = "other"
"""The hub's word for a licence that it has no name for."""


def licence(report: Figures) -> str:
    """The recipe's licence, or the strictest of base and data; `other` where one is unknown."""
    own: str | None = report["recipe"].get("licence")
    if own:
        return own
    found = report.get("licences", {"base": None, "data": {}})
    order = [name for group in _STRICTNESS for name in group]
    parts = [found["base"], *found["data"].values()]
    if any(part not in order for part in parts):
        return OTHER
    return max(map(str, parts), key=order.index)


def head(report: Figures) -> str:
    """The card's YAML head with its fences, by huggingface_hub."""
    from huggingface_hub import EvalResult, ModelCardData

    chosen = licence(report)
    more: dict[str, Any] = {"license_name": "unknown"} if chosen == OTHER else {}
    if report.get("base_hub_id"):
        more |= {"base_model": report["base_hub_id"]}
    if report.get("hub_datasets"):
        more |= {"datasets": report["hub_datasets"]}
    if report.get("language"):
        more |= {"language": report["language"]}
    data = ModelCardData(
        license=chosen, library_name="transformers", pipeline_tag="text-generation",
        tags=["stentor", "llama", "chat", "safety", "refusal", "over-refusal"],
        model_name=report["name"], **more,
        eval_results=[EvalResult(task_type="text-generation", **r) for r in results(report)],
    )  # fmt: skip
    return f"---\n{data.to_yaml()}\n---"


def results(report: Figures) -> Iterator[dict[str, Any]]:
    """The measurements of `model-index`: dataset, metric, value."""
    for name, figures in report["evaluation"]["sources"].items():
        if figures["tokens"]:
            yield {
                "dataset_type": f"held-out/{name}",
                "dataset_name": f"held-out prompts of {name} ({figures['tokens']} tokens)",
                "metric_type": "perplexity", "metric_name": "perplexity of the replies",
                "metric_value": round(figures["perplexity"], 3),
            }  # fmt: skip
    if "probe" not in report:
        return
    suites = report["probe"]["suites"]
    place = {
        "dataset_type": "+".join(s["name"] for s in suites),
        "dataset_name": ", ".join(f"{s['name']} version {s['version']}" for s in suites),
    }
    figures = answered_for(report)
    for kind, key, name in (
        ("harmful", "refused_aloud", "harmful prompts refused aloud"),
        ("benign", "answered", "harmless prompts answered"),
        ("benign", "fake_refusals", "harmless prompts refused"),
    ):
        rate = figures[kind][key]
        if rate["n"]:
            yield place | {
                "metric_type": f"{kind}_{key}", "metric_value": round(100 * rate["rate"], 2),
                "metric_name": f"{name}, % of {rate['n']}, {rate['decoding']} "
                f"[{100 * rate['low']:.1f}–{100 * rate['high']:.1f}]",
            }  # fmt: skip
