"""SAM2's mask decoder for many prompt points in one image: ultralytics' results with a fraction of the work.

Everything here is algebra on the trained weights, without approximation:

- In the first layer the image tokens are the same for every point, so their keys, values and queries are computed once.
- Later they differ from point to point, and projecting them would be most of the work. There are 8 point tokens for
  thousands of image tokens, so the projection is absorbed into the point tokens' side: q W x = (q W) x.
- The predicted IoU needs the score token alone. Masks are computed only for points with one above the threshold.

Shapes: p points, t tokens of each point, h heads of c channels, n image tokens, 256 channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageContext:
    """What the decoder computes once for an image and shares between all points."""

    keys: torch.Tensor  # (n, 256)
    size: tuple[int, int]  # rows and columns of the n places
    fine: tuple[torch.Tensor, torch.Tensor]  # (1, 32, 4 rows, 4 columns), (1, 64, 2 rows, 2 columns)
    image_keys: torch.Tensor  # (h, c, n), of layer 0's token-to-image attention
    image_values: torch.Tensor  # (h, n, c), of the same attention
    image_queries: torch.Tensor  # (h, n, c), of layer 0's image-to-token attention
    positional_keys: tuple[torch.Tensor, torch.Tensor]  # (h, c, n), the positions' share of layer 1's and the last keys
    positional_queries: torch.Tensor  # (h, n, c), the positions' share of layer 1's queries


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenState:
    """Transformer output for p points, before masks are predicted."""

    keys: torch.Tensor  # (p, n, 256), the image tokens of each point
    queries: torch.Tensor  # (p, t, 256)
    tokens: torch.Tensor  # (p, t, 256), the input tokens
    predicted_iou: torch.Tensor  # (p, 4), of the single mask and the three others


class ManyPointDecoder:
    """Mask decoder of one model.

    Args:
        decoder: ultralytics' `SAM2MaskDecoder` with high-resolution features and a transformer of two layers.
    """

    def __init__(self, decoder: Any) -> None:
        self._decoder = decoder
        self._first, self._second = decoder.transformer.layers
        self._last = decoder.transformer.final_attn_token_to_image
        own = [decoder.iou_token.weight, decoder.mask_tokens.weight]
        if decoder.pred_obj_scores:
            own.insert(0, decoder.obj_score_token.weight)
        self._own_tokens = torch.cat(own)
        self._score_at = len(self._own_tokens) - 1 - decoder.num_mask_tokens

    def precompute(
        self, embedding: torch.Tensor, dense: torch.Tensor, places: torch.Tensor, fine: list[torch.Tensor]
    ) -> ImageContext:
        """Compute the context that all points share.

        Args:
            embedding: (1, 256, rows, columns) of the image.
            dense: (1, 256, rows, columns) or broadcastable, the embedding of no mask.
            places: (1, 256, rows, columns), the positions' encoding.
            fine: high-resolution features, 32 channels at 4 × the size and 64 at 2 ×.
        """
        rows, columns = embedding.shape[-2:]
        keys = (embedding + dense)[0].flatten(1).T.contiguous()  # (n, 256)
        positions = places[0].flatten(1).T.contiguous()
        to_image, to_token = self._first.cross_attn_token_to_image, self._first.cross_attn_image_to_token
        placed = keys + positions
        return ImageContext(
            keys=keys,
            size=(rows, columns),
            fine=(fine[0], fine[1]),
            image_keys=_split(to_image.k_proj(placed), to_image).permute(1, 2, 0).contiguous(),
            image_values=_split(to_image.v_proj(keys), to_image).transpose(0, 1).contiguous(),
            image_queries=_split(to_token.q_proj(placed), to_token).transpose(0, 1).contiguous(),
            positional_keys=(
                _positional_keys(self._second.cross_attn_token_to_image, positions),
                _positional_keys(self._last, positions),
            ),
            positional_queries=_split(
                self._second.cross_attn_image_to_token.q_proj(positions), self._second.cross_attn_image_to_token
            )
            .transpose(0, 1)
            .contiguous(),
        )

    def predict_iou(self, image: ImageContext, sparse: torch.Tensor) -> TokenState:
        """Run the transformer for prompts, (p, k, 256), up to their predicted IoU."""
        own = self._own_tokens.to(sparse.dtype).expand(len(sparse), -1, -1)
        tokens = torch.cat([own, sparse], dim=1)
        queries, keys = self._run_first_layer(image, tokens)
        queries, keys = self._run_second_layer(image, queries, keys, tokens)
        score = slice(self._score_at, self._score_at + 1)
        seen = self._attend_finally(image, queries[:, score], tokens[:, score], keys)
        return TokenState(
            keys=keys, queries=queries, tokens=tokens, predicted_iou=self._decoder.iou_prediction_head(seen[:, 0])
        )

    def predict_masks(self, image: ImageContext, state: TokenState, points: torch.Tensor) -> torch.Tensor:
        """Compute the logits of all four masks of some points: (k,) indices to (k, 4, 4 rows, 4 columns)."""
        masks = slice(self._score_at + 1, self._score_at + 1 + self._decoder.num_mask_tokens)
        keys = state.keys[points]
        seen = self._attend_finally(image, state.queries[points, masks], state.tokens[points, masks], keys)
        mixing = torch.stack([mlp(seen[:, i]) for i, mlp in enumerate(self._decoder.output_hypernetworks_mlps)], 1)
        widen, norm, bend, widen_more, bend_more = self._decoder.output_upscaling
        coarse = torch.unflatten(keys.transpose(1, 2), 2, image.size)
        middle = bend(norm(widen(coarse) + image.fine[1]))
        fine = bend_more(widen_more(middle) + image.fine[0])
        return torch.unflatten(mixing @ fine.flatten(2), 2, fine.shape[-2:])

    def _run_first_layer(self, image: ImageContext, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Run layer 0: its image tokens are the same for all points."""
        layer = self._first
        queries = layer.norm1(layer.self_attn(q=tokens, k=tokens, v=tokens))

        attention = layer.cross_attn_token_to_image
        token_queries = _split(attention.q_proj(queries + tokens), attention)  # (p, t, h, c)
        scores = _fold(token_queries) @ image.image_keys  # (h, p t, n)
        attended = scores.mul_(_scale(attention)).softmax(-1) @ image.image_values  # (h, p t, c)
        queries = layer.norm2(queries + attention.out_proj(_unfold(attended, len(tokens))))
        queries = layer.norm3(queries + layer.mlp(queries))

        attention = layer.cross_attn_image_to_token
        token_keys = _split(attention.k_proj(queries + tokens), attention)
        scores = torch.unflatten(
            _fold(token_keys) @ image.image_queries.transpose(1, 2), 1, tokens.shape[:2]
        )  # (h, p, t, n)
        weights = scores.mul_(_scale(attention)).softmax(2).transpose(0, 1)  # (p, h, t, n)
        return queries, layer.norm4(_update_image(image.keys[None], weights, queries, attention))

    def _run_second_layer(
        self, image: ImageContext, queries: torch.Tensor, keys: torch.Tensor, tokens: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Run layer 1: each point has its own image tokens."""
        layer = self._second
        placed = queries + tokens
        queries = layer.norm1(queries + layer.self_attn(q=placed, k=placed, v=queries))
        attended = _attend_to_image(layer.cross_attn_token_to_image, queries + tokens, keys, image.positional_keys[0])
        queries = layer.norm2(queries + attended)
        queries = layer.norm3(queries + layer.mlp(queries))

        attention = layer.cross_attn_image_to_token
        token_keys = _split(attention.k_proj(queries + tokens), attention)  # (p, t, h, c)
        scores = _attention_scores(token_keys, attention.q_proj.weight, keys, image.positional_queries.transpose(1, 2))
        weights = scores.mul_(_scale(attention)).softmax(2)
        return queries, layer.norm4(_update_image(keys, weights, queries, attention))

    def _attend_finally(
        self, image: ImageContext, queries: torch.Tensor, tokens: torch.Tensor, keys: torch.Tensor
    ) -> torch.Tensor:
        attended = _attend_to_image(self._last, queries + tokens, keys, image.positional_keys[1])
        normed: torch.Tensor = self._decoder.transformer.norm_final_attn(queries + attended)
        return normed


def _attend_to_image(attention: Any, tokens: torch.Tensor, keys: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Compute token-to-image attention with each point's own image tokens, (p, n, 256): (p, t, 256) to (p, t, 256).

    The bias of the keys' projection adds the same for all places, so it cancels in the softmax.
    """
    queries = _split(attention.q_proj(tokens), attention)
    weights = _attention_scores(queries, attention.k_proj.weight, keys, places).mul_(_scale(attention)).softmax(-1)
    seen = torch.unflatten(weights.flatten(1, 2) @ keys, 1, weights.shape[1:3])  # (p, h, t, 256)
    heads = attention.v_proj.weight.unflatten(0, (attention.num_heads, -1))  # (h, c, 256)
    values = torch.einsum("phtx,hcx->pthc", seen, heads).flatten(2) + attention.v_proj.bias
    output: torch.Tensor = attention.out_proj(values)
    return output


def _attention_scores(
    tokens: torch.Tensor, weight: torch.Tensor, keys: torch.Tensor, places: torch.Tensor
) -> torch.Tensor:
    """Multiply tokens, (p, t, h, c), by each point's image tokens, (p, n, 256), as `weight` projects them.

    Args:
        weight: (h c, 256).
        places: (h, c, n), the positions as it projects them, and all else that doesn't depend on the point.

    Returns:
        (p, h, t, n).
    """
    p, t, h, _ = tokens.shape
    heads = torch.unflatten(weight, 0, (h, -1))  # (h, c, 256)
    absorbed = torch.einsum("pthc,hcx->phtx", tokens, heads).flatten(1, 2)  # (p, h t, 256)
    placed = torch.unflatten(_fold(tokens) @ places, 1, (p, t)).transpose(0, 1)  # (p, h, t, n)
    return torch.unflatten(torch.baddbmm(placed.flatten(1, 2), absorbed, keys.transpose(1, 2)), 1, (h, t))


def _update_image(keys: torch.Tensor, weights: torch.Tensor, queries: torch.Tensor, attention: Any) -> torch.Tensor:
    """Add image-to-token attention to the image tokens, (p or 1, n, 256).

    Args:
        weights: (p, h, t, n), of the attention.
        queries: (p, t, 256), from which values are projected.

    An image token's weights add up to 1 in each head, so the output bias is added to the first head's values.
    """
    values = _split(attention.v_proj(queries), attention)  # (p, t, h, c)
    heads = attention.out_proj.weight.unflatten(1, (attention.num_heads, -1))  # (256, h, c)
    projected = torch.einsum("pthc,xhc->phtx", values, heads)  # (p, h, t, 256)
    projected[:, 0] += attention.out_proj.bias
    return torch.baddbmm(keys, weights.flatten(1, 2).transpose(1, 2), projected.flatten(1, 2))


def _positional_keys(attention: Any, positions: torch.Tensor) -> torch.Tensor:
    """Return the positions' share of the keys, without the bias: (h, c, n)."""
    projected = functional.linear(positions, attention.k_proj.weight)
    return _split(projected, attention).permute(1, 2, 0).contiguous()


def _split(projected: torch.Tensor, attention: Any) -> torch.Tensor:
    """Reshape (…, h c) to (…, h, c)."""
    return torch.unflatten(projected, -1, (attention.num_heads, -1))


def _fold(tokens: torch.Tensor) -> torch.Tensor:
    """Reshape (p, t, h, c) to (h, p t, c), for one product per head."""
    return tokens.permute(2, 0, 1, 3).flatten(1, 2)


def _unfold(tokens: torch.Tensor, p: int) -> torch.Tensor:
    """Reshape (h, p t, c) to (p, t, h c)."""
    return torch.unflatten(tokens, 1, (p, -1)).permute(1, 2, 0, 3).flatten(2)


def _scale(attention: Any) -> float:
    scale: float = (attention.internal_dim // attention.num_heads) ** -0.5
    return scale
