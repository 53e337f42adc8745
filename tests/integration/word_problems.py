"""Word problems in GSM8K's format, written for these tests, and tiny checkpoints that can read them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from k15.config.parts import TinyModelConfig
from k15.models.tiny import build_tiny_model
from k15.models.tokenizer import build_tokenizer

PROBLEMS: list[dict[str, Any]] = [
    {
        "question": "Mira's hens lay 14 eggs on Monday and half as many on Tuesday. How many eggs does she have?",
        "answer": "On Tuesday they lay 14/2 = <<14/2=7>>7 eggs.\nTogether that is 14+7 = <<14+7=21>>21 eggs.\n#### 21",
    },
    {
        "question": "A tram has 6 cars with 32 seats each. 45 seats are taken. How many people can still sit down?",
        "answer": "There are 6*32 = <<6*32=192>>192 seats.\nFree are 192-45 = <<192-45=147>>147.\n#### 147",
    },
    {
        "question": "Joren saves $3.50 a week. How many dollars has he saved after 8 weeks?",
        "answer": "He saves 3.50*8 = $<<3.5*8=28>>28.\n#### 28",
    },
    {
        "question": "A bakery sells a loaf for $4 and a bun for $1. Ines buys 3 loaves and 5 buns and pays with a "
        "twenty-dollar note. How much change does she get?",
        "answer": "The loaves cost 3*4 = $<<3*4=12>>12.\nWith the buns she pays 12+5 = $<<12+5=17>>17.\n"
        "Her change is 20-17 = $<<20-17=3>>3.\n#### 3",
    },
    {
        "question": "A tank holds 1,200 litres and drains at 75 litres a minute. After how many minutes is it empty?",
        "answer": "It takes 1200/75 = <<1200/75=16>>16 minutes.\n#### 16",
    },
    {
        "question": "Anouk reads 24 pages a day. Her book has 360 pages. How many days does she need?",
        "answer": "She needs 360/24 = <<360/24=15>>15 days.\n#### 15",
    },
    {
        "question": "A theatre sold 240 tickets at $15 and 60 tickets at half that price. What did it earn?",
        "answer": "The first earn 240*15 = $<<240*15=3600>>3600.\nHalf of 15 is 15/2 = $<<15/2=7.5>>7.50.\n"
        "The others earn 60*7.5 = $<<60*7.5=450>>450.\nTogether 3600+450 = $<<3600+450=4050>>4,050.\n#### 4,050",
    },
    {
        "question": "Piet cuts a plank of 3 metres into pieces of 25 centimetres. How many cuts does he make?",
        "answer": "He gets 300/25 = <<300/25=12>>12 pieces.\nThat takes 12-1 = <<12-1=11>>11 cuts.\n#### 11",
    },
    {
        "question": "The lake was at -3 degrees in January and is 19 degrees warmer now. How warm is it?",
        "answer": "It is -3+19 = <<-3+19=16>>16 degrees.\n#### 16",
    },
    {
        "question": "Each of 9 rowers drinks 2 bottles an hour. How many bottles do they need for 3 hours?",
        "answer": "In an hour they drink 9*2 = <<9*2=18>>18.\nIn 3 hours that is 18*3 = <<18*3=54>>54.\n#### 54",
    },
    {
        "question": "Sanne has 5 shelves with 18 jars. A third of the jars are empty. How many jars are full?",
        "answer": "She has 5*18 = <<5*18=90>>90 jars.\nEmpty are 90/3 = <<90/3=30>>30.\n"
        "Full are 90-30 = <<90-30=60>>60.\n#### 60",
    },
    {
        "question": "A cyclist rides 12 km an hour for 2 hours and 18 km an hour for 1 hour. How far does she ride?",
        "answer": "First 12*2 = <<12*2=24>>24 km.\nThen 18 more, 24+18 = <<24+18=42>>42 km.\n#### 42",
    },
    {
        "question": "A coat costs $80. It is reduced by 25%. What does it cost now?",
        "answer": "A quarter of 80 is 80*0.25 = $<<80*0.25=20>>20.\nIt costs 80-20 = $<<80-20=60>>60.\n#### 60",
    },
    {
        "question": "There are 7 bags with 11 marbles and one bag with 4. How many marbles are there?",
        "answer": "The bags hold 7*11 = <<7*11=77>>77.\nWith the last one 77+4 = <<77+4=81>>81.\n#### 81",
    },
    {
        "question": "Levi is twice as old as Noor, who is 9. How old were they together two years ago?",
        "answer": "Levi is 2*9 = <<2*9=18>>18.\nTogether they are 18+9 = <<18+9=27>>27.\n"
        "Two years ago it was 27-2*2 = <<27-2*2=23>>23.\n#### 23",
    },
    {
        "question": "A printer makes 30 sheets a minute. How many sheets does it make in an hour and a half?",
        "answer": "That is 90 minutes, so 30*90 = <<30*90=2700>>2700 sheets.\n#### 2700",
    },
    {
        "question": "Four friends share a bill of $62 and leave a tip of $10. What does each of them pay?",
        "answer": "The sum is 62+10 = $<<62+10=72>>72.\nEach pays 72/4 = $<<72/4=18>>18.\n#### 18",
    },
    {
        "question": "A garden of 8 by 15 metres has a pond of 20 square metres. How much of it is lawn?",
        "answer": "The garden has 8*15 = <<8*15=120>>120 square metres.\nThe lawn has 120-20 = <<120-20=100>>100.\n"
        "#### 100",
    },
    {
        "question": "Yara runs 5 laps of 400 metres, three times a week. How many metres is that in 2 weeks?",
        "answer": "Once is 5*400 = <<5*400=2000>>2000 metres.\n"
        "Six times is 2000*6 = <<2000*6=12000>>12000.\n#### 12,000",
    },
    {
        "question": "A crate holds 24 bottles. How many crates does a shop need for 500 bottles?",
        "answer": "500/24 = <<500/24=20.83>>20.83, so 20 full crates.\nThe rest takes 20+1 = <<20+1=21>>21.\n#### 21",
    },
]

SHAPE = TinyModelConfig(num_layers=1, width=32, num_heads=2, mlp_width=48, max_positions=192)


def write_rows(path: Path, rows: Iterable[Any]) -> Path:
    """JSON lines; a text is written as it stands."""
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))
    return path


def own_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer whose words are those of the problems."""
    return build_tokenizer(row[name] for row in PROBLEMS for name in ("question", "answer"))


def write_qwen3(
    directory: Path, tokenizer: PreTrainedTokenizerFast | None = None, *, max_positions: int = 192
) -> Path:
    """A random Qwen3 checkpoint, by default with a tokenizer of its own, written by transformers alone."""
    tokenizer = tokenizer or own_tokenizer()
    shape = SHAPE.model_copy(update={"max_positions": max_positions})
    build_tiny_model(shape, tokenizer, seed=0).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def write_llama(directory: Path) -> Path:
    """A random Llama checkpoint in bfloat16 with untied embeddings, whose tokenizer has no chat template."""
    tokenizer = own_tokenizer()
    shape = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=192,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        LlamaForCausalLM(shape).bfloat16().save_pretrained(directory)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(directory)
    return directory
