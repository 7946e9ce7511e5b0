"""The tiny models' shapes, and the tokenizer and processors that go with them.

Idefics3 because vLLM runs it without torchvision; CLIP as transformers has it. Nothing here is
trained: pretrain.py does that. Ids of words are their places in VOCABULARY, the same for both
models, so rows are encoded without a tokenizer where speed counts.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Final

from model_ops.nursery.grammar import WORDS
from model_ops.nursery.sprites import PIXELS

if TYPE_CHECKING:
    from transformers import (
        CLIPModel,
        CLIPProcessor,
        Idefics3ForConditionalGeneration,
        Idefics3Processor,
        PreTrainedTokenizerFast,
    )

PAD, END, USER, ASSISTANT = "<pad>", "<end_of_utterance>", "<user>", "<assistant>"
FENCE, IMAGE, GLOBAL, UNKNOWN = "<fake_token_around_image>", "<image>", "<global-img>", "<unk>"
SPECIALS = (PAD, END, USER, ASSISTANT, FENCE, IMAGE, GLOBAL, UNKNOWN)
VOCABULARY: Final[dict[str, int]] = {word: index for index, word in enumerate((*SPECIALS, *WORDS))}
PATCH = 8
NUM_IMAGE_TOKENS = (PIXELS // PATCH // 2) ** 2
CONTEXT = 1024
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{ '<assistant>' if message['role'] == 'assistant' else '<user>' }}"
    "{%- if message['content'] is string -%}{{ message['content'] }}"
    "{%- else -%}{%- for part in message['content'] -%}"
    "{{ '<image>' if part['type'] in ('image', 'image_url') else part['text'] }}"
    "{%- endfor -%}{%- endif -%}"
    "{{ '<end_of_utterance>' if message['role'] == 'assistant' else '' }}"
    "{%- endfor -%}"
    "{{ '<assistant>' if add_generation_prompt else '' }}"
)


def encode(text: str) -> list[int]:
    """Ids of a text of the language; KeyError names a word that is not in it."""
    return [VOCABULARY[word] for word in text.split()]


def image_prefix() -> list[int]:
    """Ids up to the end of a message's image, as the processor expands `<user><image>`."""
    image = [VOCABULARY[IMAGE]] * NUM_IMAGE_TOKENS
    return [VOCABULARY[USER], VOCABULARY[FENCE], VOCABULARY[GLOBAL], *image, VOCABULARY[FENCE]]


def build_tokenizer() -> "PreTrainedTokenizerFast":
    """Word-level tokenizer over VOCABULARY."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(WordLevel(VOCABULARY, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.add_special_tokens(list(SPECIALS))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        unk_token=UNKNOWN,
        additional_special_tokens=[USER, ASSISTANT, FENCE, IMAGE, GLOBAL],
        model_max_length=CONTEXT,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )


def build_processor() -> "Idefics3Processor":
    """Processor that turns one 48 x 48 picture into NUM_IMAGE_TOKENS tokens, no tiles."""
    from transformers import Idefics3Processor
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

    images = Idefics3ImageProcessorPil(
        size={"longest_edge": PIXELS},
        max_image_size={"longest_edge": PIXELS},
        do_image_splitting=False,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    return Idefics3Processor(
        images, build_tokenizer(), image_seq_len=NUM_IMAGE_TOKENS, chat_template=CHAT_TEMPLATE
    )


def build_vlm(seed: int) -> "Idefics3ForConditionalGeneration":
    """The VLM with fresh weights, float32."""
    import torch
    from transformers import Idefics3Config, Idefics3ForConditionalGeneration, LlamaConfig

    vision = {
        "hidden_size": 96,
        "intermediate_size": 288,
        "num_hidden_layers": 3,
        "num_attention_heads": 3,
        "image_size": PIXELS,
        "patch_size": PATCH,
    }
    tokens = {
        "pad_token_id": VOCABULARY[PAD],
        "eos_token_id": VOCABULARY[END],
        "bos_token_id": None,
    }
    text = LlamaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        initializer_range=0.05,
        **tokens,
    )
    config = Idefics3Config(
        vision_config=vision,
        text_config=text.to_dict(),
        image_token_id=VOCABULARY[IMAGE],
        scale_factor=2,
        tie_word_embeddings=True,
        **tokens,
    )
    torch.manual_seed(seed)
    return Idefics3ForConditionalGeneration(config)


def build_clip(seed: int) -> "CLIPModel":
    """The CLIP with fresh weights, float32; its text length is that of nine sentences."""
    import torch
    from transformers import CLIPConfig, CLIPModel

    tower = {
        "hidden_size": 96,
        "intermediate_size": 256,
        "num_hidden_layers": 3,
        "num_attention_heads": 3,
    }
    text = tower | {
        "vocab_size": len(VOCABULARY),
        "max_position_embeddings": 96,
        "pad_token_id": VOCABULARY[PAD],
        "eos_token_id": VOCABULARY[END],
        "bos_token_id": VOCABULARY[USER],
    }
    vision = tower | {"image_size": PIXELS, "patch_size": PATCH}
    torch.manual_seed(seed)
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=96))


def build_clip_processor() -> "CLIPProcessor":
    """Processor of the CLIP: texts get an end token, by which the text tower pools."""
    from tokenizers.processors import TemplateProcessing
    from transformers import CLIPProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    tokenizer = build_tokenizer()
    end = (END, VOCABULARY[END])
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"$A {END}", special_tokens=[end]
    )
    tokenizer.padding_side = "right"
    tokenizer.model_max_length = 96
    images = CLIPImageProcessorPil(
        size={"height": PIXELS, "width": PIXELS},
        crop_size={"height": PIXELS, "width": PIXELS},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    return CLIPProcessor(images, tokenizer)


def save_vlm(model: "Idefics3ForConditionalGeneration", directory: Path) -> None:
    """Model, processor, tokenizer and generation settings, as transformers and vLLM read them."""
    model.save_pretrained(directory)
    build_processor().save_pretrained(directory)
    settings = {
        "eos_token_id": VOCABULARY[END],
        "pad_token_id": VOCABULARY[PAD],
        "do_sample": False,
    }
    (directory / "generation_config.json").write_text(
        json.dumps(settings, indent=2) + "\n", encoding="utf-8"
    )


def save_clip(model: "CLIPModel", directory: Path) -> None:
    """Model and processor, as transformers reads them."""
    model.save_pretrained(directory)
    build_clip_processor().save_pretrained(directory)
