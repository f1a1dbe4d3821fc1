#!/usr/bin/env python3
"""A Llama of random weights around a real tokenizer, for engines on a CPU: its folder loads with `--load-format dummy`.

    tiny_model.py TOKENIZER.json DIR [--hidden 256] [--layers 4]

The load generator's words are single tokens of common vocabularies (Mistral's, Qwen's), so that the engine counts about as many
tokens as the trace. Nothing is installed.
"""

import argparse
import json
import os

TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokenizer", help="tokenizer.json")
    parser.add_argument("dir", help="folder to write")
    parser.add_argument("--hidden", type=int, default=256, help="width, a multiple of 64")
    parser.add_argument("--layers", type=int, default=4)
    args = parser.parse_args()
    with open(args.tokenizer) as file:
        tokenizer = json.load(file)
    ids = list(tokenizer["model"]["vocab"].values()) + [token["id"] for token in tokenizer["added_tokens"]]
    heads = args.hidden // 64
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": args.hidden,
        "intermediate_size": args.hidden * 8 // 3 // 32 * 32, "num_hidden_layers": args.layers,
        "num_attention_heads": heads, "num_key_value_heads": heads, "head_dim": 64,
        "vocab_size": (max(ids) + 64) // 64 * 64, "max_position_embeddings": 32_768, "rms_norm_eps": 1e-5,
        "rope_theta": 1e4, "bos_token_id": 1, "eos_token_id": 2, "torch_dtype": "bfloat16", "hidden_act": "silu",
        "tie_word_embeddings": True,
    }
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>",
                "model_max_length": 32_768, "chat_template": TEMPLATE}
    os.makedirs(args.dir, exist_ok=True)
    for name, content in (("tokenizer.json", tokenizer), ("config.json", config), ("tokenizer_config.json", settings)):
        with open(os.path.join(args.dir, name), "w") as file:
            json.dump(content, file)


if __name__ == "__main__":
    main()
