"""A new network that knows its grid begins by looking at what was there in the frames before."""

from dataclasses import replace

import pytest
import torch

from causvid_cli.train.config import NetworkConfig, RolloutFacts
from causvid_cli.train.denoiser import build_network
from causvid_cli.train.layout import Layout
from causvid_cli.train.look_back import LOOKS, Look, begin_with

SHAPE = NetworkConfig(layers=1, heads=4, head_dim=32, ffn_dim=64, text_dim=8, grid_embed_size=8)
FRAMES, SIDE = 4, 4


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("row", [1, 2])
def test_a_new_network_begins_by_attending_to_what_was_there_before(look: Look, row: int) -> None:
    torch.manual_seed(0)
    network = build_network(SHAPE, 16).eval()
    net = network.transformer
    clean, noise = torch.randn(2, 1, 16, FRAMES, 2 * SIDE, 2 * SIDE)
    prompt = network.prompt_cache(torch.randn(1, 3, SHAPE.text_dim))
    layout = Layout.of(FRAMES, RolloutFacts(chunk_frames=1, window_frames=FRAMES))
    column, out = 3 - row, list[torch.Tensor]()

    def attended(clean: torch.Tensor) -> torch.Tensor:
        network.forward_whole(noise, torch.full((1, FRAMES), 1000.0), prompt, mask=layout.mask, clean=clean)
        return out.pop()[0, FRAMES * SIDE**2 :].unflatten(0, (FRAMES, SIDE, SIDE))

    changed = clean.clone()
    changed[:, :, 1, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2] += 0.5
    with torch.no_grad():
        parts = torch.linalg.pinv(net.grid_embed.flatten(0, 1)).T.view_as(net.grid_embed)
        begin_with(net.blocks[0], look, parts, SHAPE.head_dim)
        net.blocks[0].attn1.to_out[0].register_forward_hook(lambda *call: out.append(call[2]))
        gone = (attended(changed) - attended(clean)).norm(dim=-1)
    seen_by = {(row - down, column - right) for down, right in look.patches}
    most = gone.flatten().topk(len(seen_by) + 1).values
    assert {tuple(place) for place in (gone >= most[-2]).nonzero().tolist()} == {
        (1 + look.back, *place) for place in seen_by
    }
    assert most[-2] > 1.2 * most[-1]


def test_a_network_that_is_not_told_its_grid_begins_as_it_always_did() -> None:
    torch.manual_seed(0)
    network = build_network(replace(SHAPE, grid_embed_size=0), 16)
    norm = network.transformer.blocks[0].attn1.norm_q.weight
    assert torch.equal(norm, torch.ones_like(norm))
