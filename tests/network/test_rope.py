import pytest
import torch

from causvid_cli.network.rope import apply_rope, apply_rope_real, axis_sizes, rotations


def random_keys(frames: int, *, rows: int = 2, columns: int = 3, head_dim: int = 12, seed: int = 0) -> torch.Tensor:
    return torch.randn(1, frames * rows * columns, 2, head_dim, generator=torch.Generator().manual_seed(seed))


def rotate(x: torch.Tensor, positions: list[int], *, rows: int, columns: int) -> torch.Tensor:
    """Keys of frames at these positions, turned as the cache turns them."""
    return apply_rope(x, rotations(tuple(positions), rows, columns, x.shape[-1], x.device))


@pytest.mark.parametrize(("head_dim", "sizes"), [(128, (44, 42, 42)), (32, (12, 10, 10)), (12, (4, 4, 4))])
def test_time_takes_what_rows_and_columns_leave(head_dim, sizes):
    assert axis_sizes(head_dim) == sizes


def test_the_first_token_of_the_first_frame_does_not_turn():
    keys = random_keys(1)
    assert torch.equal(rotate(keys, [0], rows=2, columns=3)[:, 0], keys[:, 0])


def test_turning_keeps_lengths():
    keys = random_keys(3)
    turned = rotate(keys, [5, 6, 7], rows=2, columns=3)
    torch.testing.assert_close(turned.norm(dim=-1), keys.norm(dim=-1), atol=1e-5, rtol=0)  # float32 rounding


def test_scores_depend_on_the_distance_in_time_only():
    q, k = random_keys(1, seed=1), random_keys(1, seed=2)

    def scores(at: int, other: int) -> torch.Tensor:
        a, b = rotate(q, [at], rows=2, columns=3), rotate(k, [other], rows=2, columns=3)
        return torch.einsum("blnd,bmnd->bnlm", a, b)

    near = scores(7, 4)
    torch.testing.assert_close(scores(3, 0), near, atol=1e-5, rtol=0)  # sums of 12 float32 products
    # the angles of frame a million are rounded to float32 only after cosine and sine
    torch.testing.assert_close(scores(1_000_003, 1_000_000), near, atol=1e-5, rtol=0)
    assert (scores(4, 4) - near).abs().max() > 0.01


def test_frames_are_turned_one_by_one():
    keys, per_frame = random_keys(3), 6
    whole = rotate(keys, [4, 0, 9], rows=2, columns=3)
    for i, place in enumerate((4, 0, 9)):
        tokens = slice(i * per_frame, (i + 1) * per_frame)
        assert torch.equal(whole[:, tokens], rotate(keys[:, tokens], [place], rows=2, columns=3))


def test_angles_stay_float32_in_a_bfloat16_model():
    assert rotations((0, 1), 2, 3, 12, torch.device("cpu")).dtype == torch.complex64
    keys = random_keys(2).bfloat16()
    turned = rotate(keys, [40, 41], rows=2, columns=3)
    assert turned.dtype == torch.bfloat16
    assert torch.equal(turned, rotate(keys.float(), [40, 41], rows=2, columns=3).bfloat16())


def test_angles_left_over_from_a_video_serve_training():
    rotations.cache_clear()
    with torch.inference_mode():
        rotate(random_keys(1), [77], rows=2, columns=3)
    keys = random_keys(1).requires_grad_()
    rotate(keys, [77], rows=2, columns=3).sum().backward()
    assert keys.grad.any()


def test_real_numbers_rotate_as_complex_ones_do():
    keys, rope = random_keys(3), rotations((0, 1, 700), 2, 3, 12, torch.device("cpu"))
    wanted = apply_rope(keys, rope)
    assert (wanted - keys).abs().max() > 0.1
    torch.testing.assert_close(apply_rope_real(keys, torch.view_as_real(rope)), wanted, rtol=0, atol=1e-6)
