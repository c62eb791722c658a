from functools import partial

import pytest
import torch
from network.test_rope import rotate

from causvid_cli.geometry import Chunk, take_chunks
from causvid_cli.network.cache import KVCache, Place, PromptCache
from causvid_cli.network.rope import apply_rope, rotations

LAYERS, BATCH, ROWS, COLUMNS, HEADS, HEAD_DIM = 2, 2, 1, 3, 2, 12
TOKENS = ROWS * COLUMNS


def empty_cache(**options) -> KVCache:
    rotations_at = partial(rotations, rows=ROWS, columns=COLUMNS, head_dim=HEAD_DIM, device=torch.device("cpu"))
    shape = {"layers": LAYERS, "heads": HEADS, "head_dim": HEAD_DIM, "tokens_per_latent_frame": TOKENS, "batch": BATCH}
    return KVCache(rotations_at=rotations_at, **shape, **options)


def keys_of(chunk: Chunk, layer: int) -> torch.Tensor:
    """Keys [B, token, head, head_dim] that tell their frame and layer."""
    rng = torch.Generator().manual_seed(1000 * layer + chunk.start_frame)
    return torch.randn(BATCH, chunk.frames * TOKENS, HEADS, HEAD_DIM, generator=rng)


def values_of(chunk: Chunk, layer: int) -> torch.Tensor:
    """Values that are, all over, the number of their frame plus a hundredth of the layer."""
    frames = torch.arange(chunk.start_frame, chunk.end_frame).repeat_interleave(TOKENS) + layer / 100
    return frames.view(1, -1, 1, 1).expand(BATCH, -1, HEADS, HEAD_DIM)


def call(cache: KVCache, chunk: Chunk) -> tuple[Place, list[torch.Tensor], list[torch.Tensor]]:
    """One network call: the place it is given, and the keys and values that each layer attends to."""
    place = cache.begin(chunk)
    seen = [cache.write(layer, keys_of(chunk, layer), values_of(chunk, layer), place) for layer in range(LAYERS)]
    return place, [k.clone() for k, _ in seen], [v.clone() for _, v in seen]


def feed(cache: KVCache, latent_frames: int, chunk_frames: int = 1) -> Chunk:
    """Call and commit chunk after chunk; returns the one that would come next."""
    *past, following = take_chunks(latent_frames + chunk_frames, chunk_frames)
    for chunk in past:
        call(cache, chunk)
        cache.commit()
    return following


def frames_seen(values: torch.Tensor) -> list[int]:
    """Which frames values [B, token, head, head_dim] of layer 0 belong to, as they lie."""
    assert (values == values[:1, :, :1, :1]).all()
    return values[0, ::TOKENS, 0, 0].long().tolist()


# --- what stays ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rope", ["relative", "absolute"])
def test_after_nine_one_frame_chunks_with_sink_1_and_window_2_frames_0_7_8_are_left(rope):
    cache = empty_cache(sink_frames=1, window_frames=2, rope=rope)
    feed(cache, 9)
    assert cache.frames() == [0, 7, 8]


@pytest.mark.parametrize(
    ("sink", "window", "chunk_frames", "latent_frames", "left"),
    [
        (0, 4, 1, 3, [0, 1, 2]),
        (0, 4, 1, 9, [5, 6, 7, 8]),
        (3, 3, 3, 12, [0, 1, 2, 9, 10, 11]),
        (1, 5, 3, 9, [0, 4, 5, 6, 7, 8]),
        (1, 4, 3, 6, [0, 2, 3, 4, 5]),
        (2, 3, 2, 8, [0, 1, 5, 6, 7]),
    ],
)
def test_the_sink_and_the_newest_frames_are_kept(sink, window, chunk_frames, latent_frames, left):
    cache = empty_cache(sink_frames=sink, window_frames=window)
    feed(cache, latent_frames, chunk_frames)
    assert cache.frames() == left


@pytest.mark.parametrize("rope", ["relative", "absolute"])
def test_evicting_keeps_the_sink_and_writes_over_the_oldest_of_the_rest(rope):
    cache = empty_cache(sink_frames=1, window_frames=3, rope=rope)
    following = feed(cache, 7)
    _, _, values = call(cache, following)
    for layer, seen in enumerate(values):
        assert frames_seen(seen - layer / 100) == [0, 7, 5, 6]
    cache.commit()
    assert frames_seen(cache.held(0)[1]) == [0, 5, 6, 7]  # oldest first


@pytest.mark.parametrize(("sink", "window", "chunk_frames"), [(0, 4, 2), (0, 5, 2), (1, 5, 3), (3, 7, 3), (2, 3, 3)])
def test_a_full_window_is_seen_whole_and_in_one_piece(sink, window, chunk_frames):
    cache = empty_cache(sink_frames=sink, window_frames=window)
    feed(cache, 4 * (sink + window) * chunk_frames, chunk_frames)
    for chunk in list(take_chunks(60 * chunk_frames, chunk_frames))[-6:]:
        place, _, values = call(cache, chunk)
        assert place.seen == (slice(0, (sink + window) * TOKENS),)
        newest = list(range(chunk.end_frame - window, chunk.end_frame))
        assert sorted(frames_seen(values[0]))[-chunk_frames:] == newest[-chunk_frames:]
        assert place.index.tolist() == [token for run in place.written for token in range(run.start, run.stop)]
        cache.commit()


def test_a_smaller_chunk_than_there_is_room_for_sees_no_forgotten_frame():
    cache = empty_cache(sink_frames=1, window_frames=4)
    following = feed(cache, 9)
    call(cache, Chunk(following.index, following.start_frame, 3))  # given up again: frames 6 and 5 are gone for it
    _, _, values = call(cache, following)
    assert sorted(frames_seen(values[0])) == [0, 8, 9]


def test_what_is_evicted_can_be_seen_until_it_is_overwritten():
    cache = empty_cache(sink_frames=1, window_frames=3)
    chunk = feed(cache, 6)
    place, keys, values = call(cache, chunk)
    cache.commit()
    following = cache.begin(Chunk(7, 7, 1))  # the next chunk's place, before the clean pass of this one
    again = [cache.write(layer, keys_of(chunk, layer), values_of(chunk, layer), place) for layer in range(LAYERS)]
    for layer, (k, v) in enumerate(again):
        assert torch.equal(k, keys[layer])
        assert torch.equal(v, values[layer])
        _, after = cache.write(layer, keys_of(Chunk(7, 7, 1), layer), values_of(Chunk(7, 7, 1), layer), following)
        assert sorted(frames_seen(after - layer / 100)) == [0, 5, 6, 7]


def test_a_chunk_sees_itself_before_it_is_committed_and_leaves_nothing_behind():
    cache = empty_cache(sink_frames=1, window_frames=3)
    following = feed(cache, 2)
    _, _, values = call(cache, following)
    assert frames_seen(values[0]) == [0, 1, 2]
    assert cache.frames() == [0, 1]


@pytest.mark.parametrize("rope", ["relative", "absolute"])
def test_repeated_calls_for_one_chunk_evict_once_and_see_the_same(rope):
    cache = empty_cache(sink_frames=1, window_frames=3, rope=rope)
    following = feed(cache, 6)
    first = call(cache, following)
    assert cache.frames() == [0, 4, 5]
    for _ in range(3):
        again = call(cache, following)
        assert cache.frames() == [0, 4, 5]
        assert again[0] == first[0]
        for got, wanted in zip(again[1] + again[2], first[1] + first[2], strict=True):
            assert torch.equal(got, wanted)


def test_a_later_call_overwrites_what_an_earlier_one_wrote():
    cache = empty_cache(window_frames=2)
    chunk = Chunk(0, 0, 1)
    positions = cache.begin(chunk)
    cache.write(0, keys_of(chunk, 0), values_of(chunk, 0), positions)
    _, values = cache.write(0, keys_of(chunk, 0), values_of(chunk, 0) + 5, cache.begin(chunk))
    assert frames_seen(values) == [5]


def test_a_reset_cache_remembers_nothing():
    cache = empty_cache(sink_frames=1, window_frames=3)
    following = feed(cache, 6)
    cache.reset()
    assert cache.frames() == []
    place, _, values = call(cache, following)
    assert place.positions == (0,)
    assert frames_seen(values[0]) == [6]


def test_what_cannot_fit_is_refused():
    with pytest.raises(ValueError, match="window_frames 0 must be positive"):
        empty_cache(window_frames=0)
    with pytest.raises(ValueError, match="sink_frames -1"):
        empty_cache(window_frames=1, sink_frames=-1)
    with pytest.raises(ValueError, match="chunk of 3 frames does not fit"):
        empty_cache(sink_frames=1, window_frames=2).begin(Chunk(0, 0, 3))


def test_committing_without_a_chunk_at_work_is_our_own_mistake():
    cache = empty_cache(window_frames=2)
    feed(cache, 1)
    with pytest.raises(AssertionError, match="without a chunk at work"):
        cache.commit()


# --- positions -----------------------------------------------------------------------------------------------------


def test_positions_are_frames_of_the_video_until_it_is_reset():
    for rope in ("relative", "absolute"):
        cache = empty_cache(sink_frames=1, window_frames=3, rope=rope)
        assert cache.begin(feed(cache, 6)).positions == (6,)
    for rope, wanted in (("relative", (0,)), ("absolute", (6,))):
        cache = empty_cache(sink_frames=1, window_frames=3, rope=rope)
        following = feed(cache, 6)
        cache.reset()
        assert cache.begin(following).positions == wanted


def test_a_cache_takes_no_more_than_keys_values_and_a_relative_sink():
    frame = LAYERS * BATCH * TOKENS * HEADS * HEAD_DIM * 4
    assert empty_cache(window_frames=4).nbytes == 2 * 4 * frame
    assert empty_cache(window_frames=4, sink_frames=1, rope="absolute").nbytes == 2 * 5 * frame
    assert empty_cache(window_frames=4, sink_frames=1).nbytes == (2 * 5 + 1) * frame


def test_before_an_eviction_both_forms_hold_the_same_bits():
    caches = [empty_cache(sink_frames=1, window_frames=5, rope=rope) for rope in ("relative", "absolute")]
    relative, absolute = (call(cache, feed(cache, 4, 2)) for cache in caches)
    assert relative[0].positions == absolute[0].positions
    for a, b in zip(relative[1], absolute[1], strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("rope", ["relative", "absolute"])
def test_after_evictions_every_key_is_turned_to_its_position(rope):
    cache = empty_cache(sink_frames=1, window_frames=3, rope=rope)
    _, keys, _ = call(cache, feed(cache, 10))
    frames = [0, 10, 8, 9]  # as they lie: the ring went round
    positions = [7, 10, 8, 9] if rope == "relative" else frames  # the sink stands before the window, or where it was
    for layer in range(LAYERS):
        plain = torch.cat([keys_of(Chunk(0, frame, 1), layer) for frame in frames], dim=1)
        assert torch.equal(keys[layer], rotate(plain, positions, rows=ROWS, columns=COLUMNS))


def test_scores_are_those_of_positions_counted_in_the_window():
    cache = empty_cache(sink_frames=1, window_frames=3)
    following = feed(cache, 1000)
    place, keys, _ = call(cache, following)
    query = keys_of(following, 5)
    got = scores(apply_rope(query, place.rotations), keys[0])
    plain = torch.cat([keys_of(Chunk(0, frame, 1), 0) for frame in (0, 998, 999, 1000)], dim=1)
    wanted = scores(*(rotate(x, p, rows=ROWS, columns=COLUMNS) for x, p in ((query, [3]), (plain, [0, 1, 2, 3]))))
    assert (got.sort(-1).values - wanted.sort(-1).values).abs().max() < 1e-5  # sums of 12 float32 products


def scores(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    return torch.einsum("blnd,bmnd->bnlm", q, k)


# --- prompt --------------------------------------------------------------------------------------------------------


def test_keys_and_values_of_a_prompt_are_computed_once_per_layer():
    asked = []

    def compute(embeds):
        asked.append(embeds)
        return embeds + 1, embeds + 2

    prompt = PromptCache(torch.zeros(1, 5, 4))
    with torch.no_grad():
        for _ in range(3):
            keys, values = prompt.keys_values(0, compute)
            assert (keys == 1).all()
            assert (values == 2).all()
        prompt.keys_values(1, compute)
    assert len(asked) == 2


def test_what_a_prompt_keeps_never_hides_a_gradient():
    weight = torch.ones(1, requires_grad=True)
    prompt = PromptCache(torch.ones(1, 5, 4))
    with torch.no_grad():
        prompt.keys_values(0, lambda embeds: (embeds * weight, embeds))
    keys, _ = prompt.keys_values(0, lambda embeds: (embeds * weight, embeds))
    assert keys.requires_grad
