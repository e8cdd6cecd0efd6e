#!/usr/bin/env python3
"""Golden cases of the families that `transformers` has: small checkpoints with random weights, and what it computes.

    pip install torch transformers safetensors tokenizers
    tests/golden/make_small_models.py [CASE ...]

Each case is a folder beside this file, in the layout of README.md. The saved folder is loaded again, widened to float32,
and run in float32 on a CPU with eager attention. Prompts are drawn until every greedy step of a case has a clear margin.
"""

import json
import re
import shutil
import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer

HERE = Path(__file__).resolve().parent
VOCAB = 512
LEAST_MARGIN = 0.05
LOGITS_STD = 3.0
SHARED = dict(vocab_size=VOCAB, max_position_embeddings=512, bos_token_id=1, eos_token_id=2, pad_token_id=0)

# Words, numbers, other scripts and emoji: what the toy vocabularies are trained on.
TEXT = """The quick brown fox jumps over the lazy dog. It's what we'd said, isn't it? I'LL go; they've gone.
def main(argc, argv):\n    return argc + 12345 * 67890 // 3.14159  # no comment\n\n\nclass Bird:\n\tpass\n
Größe, naïve café, über, señor, garçon. Привет, мир! Как дела? 你好，世界。日本語のテキスト。한국어 문장입니다.
مرحبا بالعالم. शुभ प्रभात। 🙂🎉👩‍💻 x² + y² = z², ½ of €100 is £43.21... and so on -- and on.
A dunlin is a small wader. Dunlins breed in the north and winter on muddy shores, where they probe for food.
The birds fly in flocks, and the flocks turn together; nobody knows who turns first. 1 22 333 4444 55555 2024-11-25.
"""
STRINGS = [
    "Hello, world!",
    " leading and trailing ",
    "It's 12345 tokens, isn't IT? We'LL see.",
    "def f(x):\n    return x ** 2\n\n\tpass  \n",
    "cafe\u0301 and caf\u00e9, A\u030angstr\u00f6m, \ufb01ne \u2460",
    "Привет, 你好 日本語 한국어 مرحبا 🙂👩‍💻",
    "  two   spaces\t\ttabs\r\n\r\nlines",
    "",
    " ",
    "\n\n\n",
    "2024-11-25: 3.14159 1,000,000 x²",
    "▁ is a character too",
]

QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3 = QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")


def byte_level(pattern, special, bos=None, nfc=False, digits=False, ignore_merges=False):
    """A byte-level BPE whose pre-tokenizer is a family's."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    if nfc:
        tokenizer.normalizer = normalizers.NFC()
    if digits:
        steps = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    else:
        steps = [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    # The special tokens of the families stand behind the vocabulary.
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB - len(special), initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    tokenizer.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in special])
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    return tokenizer


def gemma(special):
    """Gemma's: SentencePiece's BPE with byte fallback, and no space in front."""
    pieces = ["<pad>", "<eos>", "<bos>", "<unk>"] + special
    pieces += [f"<0x{byte:02X}>" for byte in range(256)]
    bare = Tokenizer(models.BPE(unk_token="<unk>"))
    bare.normalizer = normalizers.Replace(" ", "▁")
    bare.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    # A vocabulary that does not hold every character of the text: the rest falls back to bytes.
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB - len(pieces), limit_alphabet=70, show_progress=False, special_tokens=[]
    )
    # Words apart, each with its space: merges then do not run over them, which keeps them few.
    bare.train_from_iterator((" " + word for word in TEXT.split(" ")), trainer)
    trained = json.loads(bare.to_str())["model"]
    words = sorted(trained["vocab"], key=trained["vocab"].get)
    vocabulary = {piece: index for index, piece in enumerate(pieces + [w for w in words if w not in pieces])}
    merges = [tuple(pair) for pair in trained["merges"]]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens(
        [AddedToken(text, normalized=False, special=True) for text in ["<pad>", "<eos>", "<bos>", "<unk>"] + special]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", 2)]
    )
    return tokenizer


CHATML = """\
{%- if messages[0]['role'] == 'system' -%}
    {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
{%- else -%}
    {{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}
{%- endif -%}
{%- for message in messages -%}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

# Looks for the last question from the end, and drops what was thought before it.
THINKING = """\
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- for tool in tools %}{{- tool | tojson }}{%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set content = message.content %}
        {%- set reasoning_content = '' %}
        {%- if message.reasoning_content is defined and message.reasoning_content is not none %}
            {%- set reasoning_content = message.reasoning_content %}
        {%- elif '</think>' in message.content %}
            {%- set content = message.content.split('</think>')[-1].lstrip('\\n') %}
            {%- set reasoning_content = message.content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index and (loop.last or reasoning_content) %}
            {{- '<|im_start|>' + message.role + '\\n<think>\\n' + reasoning_content.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""

HEADERS = """\
{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = "26 Jul 2024" %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{{- "Cutting Knowledge Date: December 2023\\n" }}
{{- "Today Date: " + date_string + "\\n\\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

TURNS = """\
{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- if messages[0]['content'] is string -%}
        {%- set first_user_prefix = messages[0]['content'] + '

' -%}
    {%- else -%}
        {%- set first_user_prefix = messages[0]['content'][0]['text'] + '

' -%}
    {%- endif -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = "" -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception("Conversation roles must alternate user/assistant/user/assistant/...") }}
    {%- endif -%}
    {%- if (message['role'] == 'assistant') -%}
        {%- set role = "model" -%}
    {%- else -%}
        {%- set role = message['role'] -%}
    {%- endif -%}
    {{ '<start_of_turn>' + role + '
' + (first_user_prefix if loop.first else "") }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for item in message['content'] -%}
            {%- if item['type'] == 'text' -%}
                {{ item['text'] | trim }}
            {%- endif -%}
        {%- endfor -%}
    {%- else -%}
        {{ raise_exception("Invalid content type") }}
    {%- endif -%}
    {{ '<end_of_turn>
' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{'<start_of_turn>model
'}}
{%- endif -%}
"""

# Metadata with today's date, an optional /no_think, and an empty thought where thinking is off.
METADATA = """\
{%- if enable_thinking is not defined -%}{%- set enable_thinking = true -%}{%- endif -%}
{%- set reasoning_mode = "/think" if enable_thinking else "/no_think" -%}
{{- "<|im_start|>system\\n" -}}
{%- if messages[0].role == "system" -%}
    {%- set system_message = messages[0].content -%}
    {%- if "/no_think" in system_message -%}
        {%- set reasoning_mode = "/no_think" -%}
    {%- elif "/think" in system_message -%}
        {%- set reasoning_mode = "/think" -%}
    {%- endif -%}
    {%- set custom_instructions = system_message.replace("/no_think", "").replace("/think", "").rstrip() -%}
{%- endif -%}
{{- "## Metadata\\n\\nReasoning Mode: " + reasoning_mode + "\\n\\n" -}}
{%- set today = strftime_now("%d %B %Y") -%}
{%- if today | length < 3 -%}{{- today -}}{%- endif -%}
{%- if custom_instructions -%}{{- custom_instructions + "\\n\\n" -}}{%- endif -%}
{{- "<|im_end|>\\n" -}}
{%- for message in messages -%}
    {%- set content = message.content if message.content is string else "" -%}
    {%- if message.role == "user" -%}
        {{ "<|im_start|>" + message.role + "\\n" + content + "<|im_end|>\\n" }}
    {%- elif message.role == "assistant" -%}
        {% generation %}
        {%- if reasoning_mode == "/think" -%}
            {{ "<|im_start|>assistant\\n" + content.lstrip("\\n") + "<|im_end|>\\n" }}
        {%- else -%}
            {{ "<|im_start|>assistant\\n" + "<think>\\n\\n</think>\\n" + content.lstrip("\\n") + "<|im_end|>\\n" }}
        {%- endif -%}
        {% endgeneration %}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {%- if reasoning_mode == "/think" -%}
        {{ "<|im_start|>assistant\\n" }}
    {%- else -%}
        {{ "<|im_start|>assistant\\n" + "<think>\\n\\n</think>\\n" }}
    {%- endif -%}
{%- endif -%}
"""

QWEN_SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
LLAMA_SPECIAL = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
SLIDING, FULL = "sliding_attention", "full_attention"

# The class of a configuration and its values, the type of the file, and what is beside the weights.
CASES = {
    # Heads of 20, whose biases begin inside a quad; five queries for a key; a head of its own.
    "qwen2": dict(
        config=transformers.Qwen2Config,
        values=dict(
            hidden_size=100, num_attention_heads=5, num_key_value_heads=1, intermediate_size=168,
            num_hidden_layers=3, rope_theta=1e6, tie_word_embeddings=False, rms_norm_eps=1e-6,
        ),
        dtype=torch.bfloat16,
        older=dict(rope_theta=1e6, sliding_window=32768, max_window_layers=21, use_sliding_window=False),
        tokenizer=lambda: byte_level(QWEN2, QWEN_SPECIAL, nfc=True),
        tokenizer_config=dict(
            tokenizer_class="Qwen2Tokenizer", eos_token="<|im_end|>", pad_token="<|endoftext|>", bos_token=None,
            add_bos_token=False, add_prefix_space=False, chat_template=CHATML,
        ),
        end=["<|im_end|>", "<|endoftext|>"],
    ),
    # Heads that are wider than hidden / heads, with norms of q and k.
    "qwen3": dict(
        config=transformers.Qwen3Config,
        values=dict(
            hidden_size=96, num_attention_heads=6, num_key_value_heads=2, head_dim=32, intermediate_size=160,
            num_hidden_layers=3, rope_theta=1e6, tie_word_embeddings=True, rms_norm_eps=1e-6,
        ),
        dtype=torch.float32,
        tokenizer=lambda: byte_level(QWEN2, QWEN_SPECIAL, nfc=True),
        tokenizer_config=dict(
            tokenizer_class="Qwen2Tokenizer", eos_token="<|im_end|>", pad_token="<|endoftext|>", bos_token=None,
            add_bos_token=False, add_prefix_space=False, chat_template=THINKING,
        ),
        end=["<|im_end|>", "<|endoftext|>"],
    ),
    # Heads of 128, as Qwen3-0.6B and 1.7B have them, and no shared embedding.
    "qwen3_wide_heads": dict(
        config=transformers.Qwen3Config,
        values=dict(
            hidden_size=64, num_attention_heads=2, num_key_value_heads=1, head_dim=128, intermediate_size=96,
            num_hidden_layers=2, rope_theta=1e6, tie_word_embeddings=False, rms_norm_eps=1e-6,
        ),
        dtype=torch.bfloat16,
    ),
    "llama3": dict(
        config=transformers.LlamaConfig,
        values=dict(
            hidden_size=128, num_attention_heads=4, num_key_value_heads=2, head_dim=32, intermediate_size=200,
            num_hidden_layers=3, rope_theta=500000.0, tie_word_embeddings=True, rms_norm_eps=1e-5,
            # A context so short that all three kinds of wavelength occur, and positions past it.
            rope_scaling=dict(
                rope_type="llama3", factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0,
                original_max_position_embeddings=64,
            ),
        ),
        dtype=torch.float32,
        older=dict(
            rope_theta=500000.0,
            rope_scaling=dict(
                rope_type="llama3", factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0,
                original_max_position_embeddings=64,
            ),
        ),
        tokenizer=lambda: byte_level(LLAMA3, LLAMA_SPECIAL, bos="<|begin_of_text|>", ignore_merges=True),
        tokenizer_config=dict(
            tokenizer_class="PreTrainedTokenizerFast", bos_token="<|begin_of_text|>", eos_token="<|eot_id|>",
            chat_template=HEADERS,
        ),
        end=["<|end_of_text|>", "<|eot_id|>"],
    ),
    # The fourth layer has no rope.
    "smollm3": dict(
        config=transformers.SmolLM3Config,
        values=dict(
            hidden_size=96, num_attention_heads=6, num_key_value_heads=2, intermediate_size=160,
            num_hidden_layers=4, rope_theta=5e6, tie_word_embeddings=True, rms_norm_eps=1e-6,
            no_rope_layers=[1, 1, 1, 0], no_rope_layer_interval=4, use_sliding_window=False, attention_bias=False,
        ),
        dtype=torch.float32,
        tokenizer=lambda: byte_level(LLAMA3, QWEN_SPECIAL, ignore_merges=True),
        tokenizer_config=dict(
            tokenizer_class="PreTrainedTokenizerFast", bos_token=None, eos_token="<|im_end|>",
            chat_template=METADATA,
        ),
        end=["<|im_end|>"],
    ),
    # Windows of 12, and a global layer in six.
    "gemma3": dict(
        config=transformers.Gemma3TextConfig,
        values=dict(
            hidden_size=80, num_attention_heads=4, num_key_value_heads=1, head_dim=32, intermediate_size=128,
            num_hidden_layers=7, tie_word_embeddings=True, rms_norm_eps=1e-6, sliding_window=12,
            layer_types=5 * [SLIDING] + [FULL, SLIDING], query_pre_attn_scalar=32, bos_token_id=2, eos_token_id=1,
            rope_parameters={
                SLIDING: dict(rope_type="default", rope_theta=1e4), FULL: dict(rope_type="default", rope_theta=1e6)
            },
        ),
        dtype=torch.float32,
        tokenizer=lambda: gemma(["<start_of_turn>", "<end_of_turn>"]),
        tokenizer_config=dict(
            tokenizer_class="GemmaTokenizer", bos_token="<bos>", eos_token="<eos>", pad_token="<pad>",
            unk_token="<unk>", add_bos_token=True, add_eos_token=False, chat_template=TURNS,
        ),
        end=["<eos>", "<end_of_turn>"],
    ),
    # Heads of 256, as all of Gemma's small models have them, layers in another order, frequencies that are scaled, and a
    # scale of attention that is not 1/√D.
    "gemma3_wide_heads": dict(
        config=transformers.Gemma3TextConfig,
        values=dict(
            hidden_size=64, num_attention_heads=2, num_key_value_heads=1, head_dim=256, intermediate_size=96,
            num_hidden_layers=2, tie_word_embeddings=True, rms_norm_eps=1e-6, sliding_window=20,
            layer_types=[SLIDING, FULL], query_pre_attn_scalar=168, bos_token_id=2, eos_token_id=1,
            rope_parameters={
                SLIDING: dict(rope_type="default", rope_theta=1e4),
                FULL: dict(rope_type="linear", factor=8.0, rope_theta=1e6),
            },
        ),
        dtype=torch.bfloat16,
        # As files had it before `rope_parameters`.
        older=dict(rope_theta=1e6, rope_local_base_freq=1e4, rope_scaling=dict(rope_type="linear", factor=8.0)),
    ),
}


def randomise(model, generator):
    """Matrices that keep the size of what they map, gains around 1, and logits with the wanted spread."""
    gemma = model.config.model_type.startswith("gemma")
    hidden = model.config.hidden_size
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if name.endswith(".bias"):
            value = 0.5 * noise
        elif "norm" in name:
            value = 0.25 * noise + (0.0 if gemma else 1.0)
            # What layers add outweighs the embedding, or a shared one would repeat the last token for ever.
            if gemma and "post" in name:
                value += (63 / model.config.num_hidden_layers) ** 0.5 - 1.0
        elif "embed_tokens" in name or "lm_head" in name:
            value = LOGITS_STD / hidden**0.5 * noise
        else:
            value = noise / parameter.shape[1] ** 0.5
            if "o_proj" in name or "down_proj" in name:
                value *= 2.5
        parameter.data.copy_(value)


def forward(model, ids):
    """Logits (T, V), and embeddings and outputs of the layers (n + 1, T, H)."""
    states = []
    hooks = [model.model.layers[0].register_forward_pre_hook(lambda _, args: states.append(args[0]))]
    take = lambda _, __, output: states.append(output[0] if isinstance(output, tuple) else output)
    hooks += [layer.register_forward_hook(take) for layer in model.model.layers]
    logits = model(torch.tensor([ids])).logits[0]
    for hook in hooks:
        hook.remove()
    return logits, torch.stack([state[0] for state in states])


def greedy(model, ids, count, ends):
    """The continuation, its logits, and by how much each choice leads."""
    ids, found, rows, gaps = list(ids), [], [], []
    for _ in range(count):
        row = model(torch.tensor([ids])).logits[0, -1]
        best = row.topk(2).values
        gaps.append(float(best[0] - best[1]))
        rows.append(row)
        found.append(int(row.argmax()))
        ids.append(found[-1])
        if gaps[-1] < LEAST_MARGIN or found[-1] in ends:
            break
    return found, torch.stack(rows), gaps


def draw(model, generator, length, first, ends):
    """A prompt whose continuation is decided clearly, and ends nowhere."""
    for _ in range(400):
        drawn = torch.randint(8, VOCAB - 8, (length - len(first),), generator=generator).tolist()
        ids = first + drawn
        found, rows, gaps = greedy(model, ids, 32, ends)
        if min(gaps) >= LEAST_MARGIN and len(found) == 32 and len(set(found)) > 6:
            return ids, found, rows, gaps
    raise SystemExit("no prompt has clear margins: take another seed")


def tokenizer_files(folder, case):
    """tokenizer.json and tokenizer_config.json, and what transformers makes of strings and chats with them."""
    folder.joinpath("tokenizer.json").write_text(case["tokenizer"]().to_str(), encoding="utf-8")
    write_json(folder / "tokenizer_config.json", case["tokenizer_config"])
    # The class would write parts of the file anew; as it stands there is what counts.
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    special = [text for text in (tokenizer.bos_token, tokenizer.eos_token) if text]
    strings = []
    for text in STRINGS + [f"a{text}b {text}" for text in special]:
        ids = tokenizer(text)["input_ids"]
        bare = tokenizer(text, add_special_tokens=False)["input_ids"]
        strings.append(dict(text=text, ids=ids, ids_no_special=bare, decoded=tokenizer.decode(bare, skip_special_tokens=True)))
    chats = []
    talk = [dict(role="user", content=" Hi there. "), dict(role="assistant", content="Hello!"), dict(role="user", content="Why?")]
    thought = [talk[0], dict(role="assistant", content="<think>\nHm.\n</think>\n\nHello!"), talk[2]]
    for messages in [talk[:1], talk, [dict(role="system", content="Be short. /no_think")] + talk, thought]:
        for prompt in [True, False]:
            text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
            chats.append(dict(messages=messages, add_generation_prompt=prompt, text=text))
    write_json(folder / "tokenizer_expected.json", dict(reference="transformers, tokenizer.json", strings=strings, chats=chats))
    return [tokenizer.convert_tokens_to_ids(text) for text in case["end"]], tokenizer.bos_token_id


def write_json(file, value):
    text = json.dumps(value, indent=2, ensure_ascii=False)
    # Lists of numbers in one line.
    text = re.sub(r"\[[-\d.,e\s]+\]", lambda found: re.sub(r"\s+", " ", found[0]).replace("[ ", "[").replace(" ]", "]"), text)
    file.write_text(text + "\n", encoding="utf-8")


def make(name, case, seed):
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    generator = torch.Generator().manual_seed(seed)
    config = case["config"](**{**SHARED, **case["values"]})
    ends, bos = [config.eos_token_id], config.bos_token_id
    if "tokenizer" in case:
        ends, bos = tokenizer_files(folder, case)
    config.eos_token_id, config.bos_token_id = ends[0], bos
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    randomise(model, generator)
    model.to(case["dtype"])
    model.generation_config.eos_token_id = ends
    model.generation_config.bos_token_id = bos
    model.save_pretrained(folder)
    if "older" in case:
        config = json.loads((folder / "config.json").read_text())
        config.pop("rope_parameters")
        write_json(folder / "config.json", {**config, **case["older"]})

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    exact = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager").eval()
    tensors, prompts = {}, {}
    first = [bos] if bos is not None else []
    for prompt, length in [("p0", 30), ("p1", 27), ("p2", 21)]:
        ids, found, rows, gaps = draw(model, generator, length, first, ends)
        logits, states = forward(model, ids)
        tensors[f"{prompt}.input_ids"] = torch.tensor(ids)
        tensors[f"{prompt}.greedy_ids"] = torch.tensor(found)
        if prompt == "p0":
            tensors["p0.logits"], tensors["p0.hidden_states"], tensors["p0.greedy_logits"] = logits, states, rows
            noise = float((forward(exact, ids)[0] - logits.double()).abs().max())
        else:
            tensors[f"{prompt}.last_logits"] = logits[-1].clone()
        prompts[prompt] = dict(
            input_ids=ids, greedy_ids=found, greedy_min_gap=min(gaps), greedy_gap_per_step=[round(gap, 4) for gap in gaps]
        )
    long = first + torch.randint(8, VOCAB - 8, (211 - len(first),), generator=generator).tolist()
    positions = [0, 31, 63, 64, 65, 127, 128, 191, 192, 210]
    tensors["long.input_ids"], tensors["long.positions"] = torch.tensor(long), torch.tensor(positions)
    tensors["long.logits"] = forward(model, long)[0][positions]
    sequence = first + torch.randint(8, VOCAB - 8, (96 - len(first),), generator=generator).tolist()
    logits, _ = forward(model, sequence)
    nll = -logits[:-1].log_softmax(-1)[range(95), sequence[1:]]
    tensors["ppl.input_ids"], tensors["ppl.token_nll"] = torch.tensor(sequence), nll
    save_file({key: value.contiguous() for key, value in tensors.items()}, folder / "expected.safetensors")
    write_json(
        folder / "expected.json",
        dict(
            case=name,
            seed=seed,
            reference=f"transformers {type(model).__name__}",
            weights=f"model.safetensors {str(case['dtype']).removeprefix('torch.')}; computed in float32",
            transformers_version=transformers.__version__,
            torch_version=torch.__version__,
            attention="eager",
            reference_noise_f32_vs_f64=noise,
            logits_std=float(logits.std()),
            perplexity=dict(ppl=float(nll.mean().exp())),
            prompts=prompts,
        ),
    )
    size = sum(file.stat().st_size for file in folder.iterdir())
    least = min(prompt["greedy_min_gap"] for prompt in prompts.values())
    print(f"{name}: {size >> 10} KiB, margin {least:.3f}, f32 against f64 {noise:.1e}, logits' spread {logits.std():.2f}")


@torch.no_grad()
def main():
    torch.set_num_threads(2)
    for seed, (name, case) in enumerate(CASES.items(), 21000):
        if not sys.argv[1:] or name in sys.argv[1:]:
            make(name, case, seed)


main()
