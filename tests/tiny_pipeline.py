"""Text-to-image pipelines of tiny random parts with the layout of Stable Diffusion 1.5 and XL: offline, seconds on a CPU."""
import gzip
from importlib.util import find_spec
from pathlib import Path

import torch

_BLOCKS = dict(down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",), up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3)


def clip_tokenizer():
    """Return CLIP's tokenizer from the merges file that open_clip brings."""
    from transformers import CLIPTokenizer

    lines = gzip.open(Path(find_spec("open_clip").origin).parent / "bpe_simple_vocab_16e6.txt.gz").read().decode().split("\n")
    merges = lines[1 : 49152 - 256 - 2 + 1]
    keep = [*range(33, 127), *range(161, 173), *range(174, 256)]
    base = [chr(c) for c in keep + [256 + i for i in range(256 - len(keep))]]
    words = base + [c + "</w>" for c in base] + ["".join(m.split()) for m in merges] + ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={w: i for i, w in enumerate(words)}, merges=[tuple(m.split()) for m in merges], model_max_length=77,
                         bos_token="<|startoftext|>", eos_token="<|endoftext|>", unk_token="<|endoftext|>", pad_token="<|endoftext|>")


def _clip_config(width):
    from transformers import CLIPTextConfig

    return CLIPTextConfig(vocab_size=49408, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2, num_attention_heads=4,
                          max_position_embeddings=77, bos_token_id=49406, eos_token_id=49407, pad_token_id=49407, projection_dim=width)


def _scheduler():
    from diffusers import DPMSolverMultistepScheduler

    return DPMSolverMultistepScheduler(num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1)


def _autoencoder():
    from diffusers import AutoencoderKL

    return AutoencoderKL(block_out_channels=(8, 8, 8, 8), down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
                         layers_per_block=1, latent_channels=4, norm_num_groups=4, sample_size=64)


def tiny_sd(width: int = 16, text: int = 32, seed: int = 0):
    """Return a pipeline with Stable Diffusion 1.5's 16 cross-attention layers that draws 64 x 64 pixels."""
    from diffusers import StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextModel

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        parts = dict(tokenizer=clip_tokenizer(), text_encoder=CLIPTextModel(_clip_config(text)).eval(), vae=_autoencoder().eval(), scheduler=_scheduler(),
                     unet=UNet2DConditionModel(sample_size=8, cross_attention_dim=text, block_out_channels=(width, 2 * width, 4 * width, 4 * width),
                                               layers_per_block=2, attention_head_dim=2, norm_num_groups=8, **_BLOCKS).eval())
    return StableDiffusionPipeline(**parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False)


def tiny_sdxl(width: int = 16, text: int = 32, seed: int = 0):
    """Return a pipeline with Stable Diffusion XL's two text encoders and micro-conditions that draws 64 x 64 pixels."""
    from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=8, cross_attention_dim=2 * text, block_out_channels=(width, 2 * width), layers_per_block=1, attention_head_dim=2, norm_num_groups=8,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), addition_embed_type="text_time",
            addition_time_embed_dim=8, projection_class_embeddings_input_dim=6 * 8 + text, transformer_layers_per_block=(1, 2), use_linear_projection=True)
        parts = dict(tokenizer=clip_tokenizer(), tokenizer_2=clip_tokenizer(), text_encoder=CLIPTextModel(_clip_config(text)).eval(),
                     text_encoder_2=CLIPTextModelWithProjection(_clip_config(text)).eval(), vae=_autoencoder().eval(), unet=unet.eval(), scheduler=_scheduler())
    return StableDiffusionXLPipeline(**parts, force_zeros_for_empty_prompt=True)
