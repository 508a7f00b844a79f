"""What llama.cpp knows about model families: names, and what it takes for granted of each.

Read from the llama.cpp that llama-cpp-python 0.3.36 ships: the names from `src/llama-arch.cpp`,
the assertions from the graph builders in `src/models`.
"""

from __future__ import annotations


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


ARCHITECTURES = _names(
    """
    afmoe apertus arcee arctic arwkv7 baichuan bailingmoe bailingmoe2 bailingmoe3 bert
    bitnet bloom chameleon chatglm codeshell cogvlm cohere2 cohere2moe command-r dbrx deci
    deepseek deepseek2 deepseek2-ocr deepseek32 deepseek4 dflash dots1 dots3note dream
    eagle3 ernie4_5 ernie4_5-moe eurobert exaone exaone-moe exaone4 falcon falcon-h1 gemma
    gemma-embedding gemma2 gemma3 gemma3n gemma4 gemma4-assistant glm-dsa glm4 glm4moe
    glm5-next gpt-oss gpt2 gptneox granite granite_swa granitehybrid granitemoe
    graniteswitch grok grovemoe hrm_text hunyuan-dense hunyuan-moe hunyuan_vl hy_v3 hy_v4
    internlm2 jais jais2 jamba jina-bert-v2 jina-bert-v3 kimi-k3 kimi-linear laguna lfm2
    lfm2moe llada llada-moe llama llama-embed llama4 maincoder mamba mamba2 maple mellum
    mimo2 minicpm minicpm3 minimax-01 minimax-m2 minimax-m3 mistral3 mistral4 modern-bert
    mpt muse-glimmer nanbeige nemotron nemotron_h nemotron_h_moe neo-bert nomic-bert
    nomic-bert-moe olmo olmo2 olmoe openelm orion paddleocr pangu-embedded phi2 phi3 phimoe
    plamo plamo2 plamo3 plm pockettts qwen qwen2 qwen2moe qwen2vl qwen3 qwen35 qwen35moe
    qwen3moe qwen3next qwen3tts qwen3vl qwen3vlmoe qwen4exp refact rnd1 rwkv6 rwkv6qwen2
    rwkv7 seed_oss smallthinker smollm3 spark2_5 stablelm starcoder starcoder2 step35 t5
    t5encoder talkie wavtokenizer-dec xverse
    """
)
"""Every `general.architecture` that llama.cpp loads."""

WHOLE_HEAD_ROPE = _names(
    """
    apertus arcee arctic baichuan chameleon codeshell cogvlm cohere2moe dbrx deci deepseek
    dots1 dream ernie4_5 ernie4_5-moe exaone exaone-moe exaone4 falcon granite granite_swa
    graniteswitch grok grovemoe hunyuan-dense hunyuan-moe hunyuan_vl hy_v3 internlm2 jais2
    llada llada-moe llama llama-embed llama4 maincoder mellum minimax-01 minimax-m2 mistral3
    nemotron olmo olmo2 olmoe orion paddleocr pangu-embedded plamo pockettts qwen2 qwen2moe
    qwen2vl qwen3 qwen3moe qwen3tts qwen3vl qwen3vlmoe rnd1 seed_oss smallthinker smollm3
    starcoder2 talkie xverse
    """
)
"""Families for which it asserts that keys, values and rotation have one width."""

EQUAL_HEADS = WHOLE_HEAD_ROPE | _names(
    """
    afmoe bailingmoe2 bert bitnet bloom chatglm cohere2 command-r deepseek4 dflash eagle3
    eurobert glm4 glm4moe gpt2 gptneox granitehybrid jais laguna maple minimax-m3
    modern-bert mpt muse-glimmer nanbeige nemotron_h nemotron_h_moe neo-bert openelm phi2
    phi3 qwen qwen35 qwen35moe qwen3next qwen4exp refact spark2_5 stablelm starcoder t5
    """
)
"""Families for which it asserts that keys and values have one width."""

NO_ROPE = _names(
    """
    arwkv7 bloom glm5-next gpt2 jais jamba jina-bert-v2 kimi-k3 kimi-linear mamba mamba2 mpt
    nemotron_h nemotron_h_moe refact rwkv6 rwkv6qwen2 rwkv7 t5 t5encoder wavtokenizer-dec
    """
)
"""Families without rotary positions; with the others, rotating 0 dimensions never ends."""
