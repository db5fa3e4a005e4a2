"""Stage 1: masking and the reconstruction loss against slow versions."""

import pytest
import torch

from scemae.models.losses import reconstruction
from scemae.models.mae import Decoder, MaskedAutoencoder, random_mask
from scemae.models.vit import Encoder, patchify


def autoencoder(**options):
    encoder = Encoder(48, 4, 3)
    return MaskedAutoencoder(encoder, Decoder(48, 32, 1, 2, grid=12, patch_size=8), **options)


def test_mask_keeps_the_lowest_noise():
    noise = torch.rand(5, 144)
    ids_keep, ids_hidden, ids_restore = random_mask(noise, 36)
    for row in range(5):
        slow = sorted(range(144), key=lambda i: noise[row, i])
        assert ids_keep[row].tolist() == slow[:36] and ids_restore[row].tolist() == [
            slow.index(i) for i in range(144)
        ]
        assert ids_hidden[row].tolist() == slow[36:]


@pytest.mark.parametrize("norm_pix", [False, True])
def test_reconstruction_loss_equals_a_double_loop(norm_pix):
    predicted, patches, masked = torch.rand(2, 9, 12), torch.rand(2, 9, 12), torch.rand(2, 9) < 0.7
    for image in range(2):
        errors = []
        for i in range(9):
            target = patches[image, i]
            if norm_pix:
                target = (target - target.mean()) / (target.var(unbiased=True) + 1e-6) ** 0.5
            if masked[image, i]:
                errors.append(((predicted[image, i] - target) ** 2).mean())
        assert torch.allclose(
            reconstruction(predicted, patches, masked, norm_pix)[image], torch.stack(errors).mean()
        )


def test_hidden_pixels_do_not_reach_the_prediction():
    model, noise, images = autoencoder().eval(), torch.rand(1, 144), torch.rand(1, 3, 96, 96)
    predicted, masked = model.reconstruct(images, noise)
    hidden = masked.view(1, 1, 12, 12).repeat_interleave(8, 2).repeat_interleave(8, 3)
    again, _ = model.reconstruct(torch.where(hidden, torch.rand_like(images), images), noise)
    assert torch.equal(predicted, again)


@pytest.mark.parametrize("fused", [True, False])
def test_the_loss_of_hidden_patches_alone_is_that_of_a_whole_reconstruction(fused):
    model, noise, images = autoencoder(), torch.rand(3, 144), torch.rand(3, 3, 96, 96)
    for block in model.decoder.blocks:
        block.attn.fused_attn = fused
    weights, found = torch.full((3,), 1 / 3), []
    for whole in (False, True):
        model.zero_grad()
        if whole:
            predicted, masked = model.reconstruct(images, noise)
            loss = (reconstruction(predicted, patchify(images, 8), masked, False) * weights).sum()
        else:
            loss = model(images, noise, weights)
        loss.backward()
        found.append((loss, [parameter.grad.clone() for parameter in model.parameters()]))
    assert torch.allclose(found[0][0], found[1][0], rtol=1e-6)
    assert all(
        torch.allclose(one, other, rtol=1e-4, atol=1e-7)
        for one, other in zip(found[0][1], found[1][1], strict=True)
    )


def test_weights_turn_uneven_slices_into_the_global_mean():
    model, images, noise = autoencoder(), torch.rand(5, 3, 96, 96), torch.rand(5, 144)
    whole = model(images, noise, torch.full((5,), 1 / 5))
    first = model(images[:3], noise[:3], torch.full((3,), 2 / 5))
    second = model(images[[3, 4, 4]], noise[[3, 4, 4]], torch.tensor([2 / 5, 2 / 5, 0]))
    assert torch.allclose(whole, (first + second) / 2, atol=1e-6)


def test_a_quarter_of_the_patches_stays_visible():
    assert autoencoder(mask_ratio=0.75).keep == 36
