#!/usr/bin/env python3
"""Shows an adjoint.attention file (clickbait or reverse_string attention --format json) with BertViz.

In a notebook: from bertviz_view import show; show("attention.json"). As a program: bertviz_view.py FILE OUT.html.
"""
import json
import sys

import torch
from bertviz import head_view, model_view


def show(path, example=0, view="head", **options):
    with open(path, encoding="utf-8") as file:
        attention = json.load(file)
    if attention.get("format") != "adjoint.attention" or attention.get("version") != 1:
        raise ValueError(f"{path}: not adjoint.attention version 1")
    arguments = {}
    for one in attention["examples"][example]["views"]:
        name = one["name"].lower()
        arguments[name + "_attention"] = [torch.tensor(layer)[None] for layer in one["attn"]]
        if name in ("encoder", "cross"):
            arguments["encoder_tokens"] = one["right_text"]
        if name in ("decoder", "cross"):
            arguments["decoder_tokens"] = one["left_text"]
    return {"head": head_view, "model": model_view}[view](**arguments, **options)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: bertviz_view.py attention.json OUT.html")
    with open(sys.argv[2], "w", encoding="utf-8") as out:
        out.write(show(sys.argv[1], html_action="return").data)
