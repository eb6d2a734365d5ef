"""A level's flow: invertible, position by position, reproducible, and of the published size."""

from __future__ import annotations

import torch

from sanflow.model.flow import Flow


def flow_of(seed: int = 0) -> Flow:
    torch.manual_seed(seed)
    flow = Flow(10, 4, 6, position_dim=8, blocks=3)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return flow.double()


def test_inverse_undoes_forward() -> None:
    flow, v = flow_of(), torch.randn(2, 10, 4, 6, dtype=torch.float64)
    z, forwards = flow(v)
    back, backwards = flow.inverse(z)
    torch.testing.assert_close(back, v)
    torch.testing.assert_close(backwards, -forwards)


def test_log_det_is_that_of_autograds_jacobian() -> None:
    torch.manual_seed(1)
    flow = Flow(6, 1, 1, position_dim=4, blocks=3).double()
    v = torch.randn(6, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(
        lambda x: flow(x[None, :, None, None])[0].flatten(), v
    )
    log_det = 6 * flow(v[None, :, None, None])[1].squeeze()
    torch.testing.assert_close(log_det, jacobian.slogdet().logabsdet)


def test_drawn_positions_give_what_the_whole_map_gives_there() -> None:
    flow, v = flow_of(), torch.randn(2, 10, 4, 6, dtype=torch.float64)
    index = torch.tensor([17, 3, 0])
    z, log_det = flow(v)
    some, some_log_det = flow(v.flatten(2)[..., index, None], index)
    torch.testing.assert_close(some[..., 0], z.flatten(2)[..., index])
    torch.testing.assert_close(some_log_det[..., 0], log_det.flatten(1)[:, index])


def test_positions_do_not_interact_and_know_where_they_are() -> None:
    flow = flow_of()
    v = torch.ones(1, 10, 4, 6, dtype=torch.float64)
    z, _ = flow(v)
    assert z.flatten(2).unique(dim=2).shape[2] == 24  # the same feature, 24 different positions
    changed = v.clone()
    changed[..., 2, 3] = -1
    difference = (flow(changed)[0] - z).abs().amax(dim=1)[0]
    assert difference[2, 3] > 0
    assert difference.count_nonzero() == 1


def test_wide_resnet_flows_have_the_published_number_of_parameters() -> None:
    """15.75, 33.60 and 88.15 million with D = 512 and 8 blocks (methods 2.7)."""
    with torch.device("meta"):
        flows = [Flow(c, 256 // s, 256 // s) for c, s in ((512, 8), (1024, 16), (2048, 32))]
    counts = [sum(p.numel() for p in flow.parameters()) for flow in flows]
    assert [round(n / 1e6, 2) for n in counts] == [15.75, 33.60, 88.15]
    assert round(sum(counts) / 1e6, 1) == 137.5
