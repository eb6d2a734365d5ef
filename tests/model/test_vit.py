"""The transformer's written-out forward pass is torchvision's, at any size of image."""

from __future__ import annotations

import pytest
import torch
from torchvision.models.vision_transformer import VisionTransformer, interpolate_embeddings

from sanflow.model.token_config import TRANSFORMERS
from sanflow.model.vit import POSITIONS, TokenTransformer, build_transformer


def tiny(side: int = 64) -> VisionTransformer:
    torch.manual_seed(0)
    body = VisionTransformer(side, 16, num_layers=3, num_heads=4, hidden_dim=32, mlp_dim=48)
    for parameter in body.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return body.double().eval()


def test_its_tokens_are_torchvisions() -> None:
    body = tiny()
    positions = body.encoder.pos_embedding.detach().clone()
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    seen = []
    body.encoder.ln.register_forward_hook(lambda *args: seen.append(args[2]))
    body(x)
    model = TokenTransformer("tiny", body, 64, 64)
    model.body.encoder.pos_embedding.data = positions
    first, patches = model(x)
    assert torch.allclose(first, seen[0][:, 0], rtol=0, atol=1e-12)
    assert torch.allclose(patches.flatten(2), seen[0][:, 1:].transpose(1, 2), rtol=0, atol=1e-12)
    assert patches.shape == (2, 32, 4, 4)


def test_a_patch_token_lies_where_its_patch_does() -> None:
    """Rows of the map are rows of the image: what changes below changes no token above, before
    attention mixes them."""
    body = tiny()
    body.encoder.layers = torch.nn.Sequential()
    model = TokenTransformer("tiny", body, 32, 64).double()
    image = torch.randn(1, 3, 32, 64, dtype=torch.float64)
    changed = image.clone()
    changed[:, :, 16:, 48:] += 1
    differs = (model(image)[1] != model(changed)[1]).any(dim=1)[0]
    assert differs.tolist() == [[False] * 4, [False, False, False, True]]


def test_positions_are_resized_as_torchvision_resizes_them() -> None:
    values = dict(tiny(64).state_dict())
    model = TokenTransformer("tiny", tiny(), 96, 96)
    expected = interpolate_embeddings(96, 16, dict(values))[POSITIONS]
    assert torch.equal(model.adapt(values)[POSITIONS], expected)
    same = TokenTransformer("tiny", tiny(), 64, 64)
    assert same.adapt(values)[POSITIONS] is values[POSITIONS]


def test_it_stays_frozen() -> None:
    model = TokenTransformer("tiny", tiny(), 64, 64)
    model.train()
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_every_named_network_can_be_built(name: str) -> None:
    model = build_transformer(name, 64, 96)
    patch = TRANSFORMERS[name]
    assert model.size == (64 // patch, 96 // patch)
    assert model.channels == ((768,) if "_b_" in name else (1024,))


def test_positions_are_resized_by_their_grid_not_by_their_number() -> None:
    """2 x 8 cells are as many as 4 x 4, and in other places."""
    values = dict(tiny(64).state_dict())
    model = TokenTransformer("tiny", tiny(), 32, 128)
    adapted = model.adapt(values)[POSITIONS][:, 1:].reshape(2, 8, 32)
    grid = values[POSITIONS][:, 1:].reshape(4, 4, 32)
    for row, column in ((0, 0), (0, -1), (-1, 0), (-1, -1)):  # the corners stay where they were
        assert torch.allclose(adapted[row, column], grid[row, column])
