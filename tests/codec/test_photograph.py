"""A real photo given to the embedded model: shown in its palette, moved by code; a drawing is left to the codec."""

import numpy as np
import torch

from causvid_cli import storybook
from causvid_cli.codec.condition import photograph
from causvid_cli.codec.pixel import PixelCodec


def photo(held: int = 8) -> np.ndarray:
    """A picture of soft colours [T, 64, 64, 3], no pixel of which is in the palette."""
    rows, columns = np.mgrid[:64, :64]
    picture = np.stack([80 + rows, 110 + columns // 2, 90 + (rows + columns) // 3], axis=-1)
    return np.repeat(picture[None].astype(np.uint8), held, axis=0)


def codec() -> PixelCodec:
    widths = (4, 4, 4)
    return PixelCodec(palette=torch.tensor(storybook.PALETTE), encoder_widths=widths, decoder_widths=widths, blocks=0)


def test_a_photograph_is_shown_in_the_palette_and_moves_a_little_more_with_each_frame():
    shown = photograph(codec(), photo(), enlarge=2)
    assert shown.shape == (8, 128, 128, 3)
    assert {tuple(colour) for colour in shown.reshape(-1, 3)} <= {tuple(colour) for colour in storybook.PALETTE}
    nearest = storybook.PALETTE[codec().nearest_entries(torch.from_numpy(photo(1)))[0].numpy()]
    assert (shown[0, ::2, ::2] == nearest).all()
    gone = [(frame != shown[0]).mean() for frame in shown[1:]]
    assert gone[0] > 0 and gone[-1] > 2 * gone[0]


def test_a_drawing_is_the_codec_s_own_even_after_a_little_compression():
    drawn, _ = storybook.render_indices(storybook.Story("cat", "red", "sea", "jumps"), length=1, seed=0)
    picture = storybook.PALETTE[drawn].repeat(8, axis=0)
    noise = np.random.default_rng(0).integers(-6, 7, picture[:1].shape)
    compressed = np.clip(picture[:1].astype(int) + noise, 0, 255).astype(np.uint8).repeat(8, axis=0)
    assert photograph(codec(), picture, enlarge=1) is None
    assert photograph(codec(), compressed, enlarge=1) is None


def test_frames_that_differ_are_no_photo():
    frames = photo()
    frames[3, 0, 0] = 0
    assert photograph(codec(), frames, enlarge=1) is None
