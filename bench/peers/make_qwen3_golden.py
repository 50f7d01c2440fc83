"""Makes the golden files of test/golden/: tiny random Qwen3 models and the log-probabilities that transformers
computes for fixed tokens in float64. Run: python make_qwen3_golden.py OUT_FOLDER"""
import json
import sys
from pathlib import Path

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

CASES = {
    # name: overrides, tokens
    "qwen3-tied-gqa": (dict(tie_word_embeddings=True, num_attention_heads=4, num_key_value_heads=2), 23),
    "qwen3-untied-odd": (
        dict(tie_word_embeddings=False, num_attention_heads=3, num_key_value_heads=1, hidden_size=40, intermediate_size=52, vocab_size=67, head_dim=12),
        37,
    ),
}

out = Path(sys.argv[1])
for number, (name, (overrides, length)) in enumerate(CASES.items()):
    torch.manual_seed(number)
    config = Qwen3Config(
        **{
            **dict(vocab_size=61, hidden_size=32, intermediate_size=48, num_hidden_layers=2, head_dim=16, max_position_embeddings=128, rope_theta=10000.0, initializer_range=0.2),
            **overrides,
        }
    )
    model = Qwen3ForCausalLM(config).eval()
    for parameter_name, parameter in model.named_parameters():
        if "norm" in parameter_name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    folder = out / name
    model.save_pretrained(folder, safe_serialization=True)
    tokens = torch.randint(0, config.vocab_size, (1, length))
    with torch.no_grad():
        logits = model.double()(tokens).logits.double()
    logprobs = torch.log_softmax(logits, -1)[0, :-1].gather(1, tokens[0, 1:, None])[:, 0]
    (folder / "golden.json").write_text(json.dumps({"tokens": tokens[0].tolist(), "logprobs": [None] + logprobs.tolist()}))
    (folder / "generation_config.json").unlink(missing_ok=True)
    print(name, sum(p.numel() for p in model.parameters()), "parameters")
