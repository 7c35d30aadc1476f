"""The model: a real Llama, written whole or not at all, of English that is on the machine."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from demo import corpus, train

SENTENCE = (
    "The Rays which differ in Refrangibility may be parted and sorted from one another by it."
)


def test_there_is_enough_prose_on_this_machine():
    assert sum(map(len, corpus.documents())) > train.FEWEST_CHARACTERS


def test_prose_is_whole_sentences_without_markup():
    text = f"A HEADING\n\n_{SENTENCE}_ [Illustration: Fig. 1.]\n\n  x = 1 | 2\n\n{SENTENCE[:30]}"
    assert list(corpus.prose(text)) == [SENTENCE]


def test_nothing_held_out_is_learnt():
    tokens = torch.arange(200 * train.HELD_OUT_TOKENS)
    learn, test = train.split(tokens)
    assert not set(learn.tolist()) & set(test.flatten().tolist())
    assert 0.01 < test.numel() / learn.numel() < 0.03


def test_sequences_grow_and_always_fill_the_batch():
    lengths = [train.length_at(done / 100) for done in range(101)]
    assert lengths == sorted(lengths)
    for length in set(lengths):
        assert train.sample(torch.arange(5000), length=length).numel() >= train.BATCH_TOKENS


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has learnt for a second."""
    return train.ensure(tmp_path_factory.mktemp("models") / "demo", seconds=1.0)


def test_the_folder_loads_as_a_llama_with_grouped_heads(model: Path):
    loaded = AutoModelForCausalLM.from_pretrained(model)
    config = loaded.config
    assert loaded.dtype is torch.bfloat16
    assert config.model_type == "llama"
    assert config.num_attention_heads > config.num_key_value_heads > 1
    assert config.num_hidden_layers > 4


def test_two_that_want_it_at_once_get_the_one_model(tmp_path: Path):
    out = tmp_path / "demo"
    with ThreadPoolExecutor(2) as both:
        assert list(both.map(lambda _: train.ensure(out, seconds=1.0), range(2))) == [out, out]
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]


def test_text_survives_the_tokenizer(model: Path):
    tokenizer = AutoTokenizer.from_pretrained(model)
    assert tokenizer.decode(tokenizer(SENTENCE).input_ids) == SENTENCE
    message = [{"role": "user", "content": SENTENCE}]
    assert SENTENCE in tokenizer.apply_chat_template(message, tokenize=False)


def test_a_finished_model_is_not_trained_again(model: Path):
    before = (model / "model.safetensors").stat().st_mtime_ns
    train.ensure(model, seconds=1.0)
    assert (model / "model.safetensors").stat().st_mtime_ns == before


def test_an_interrupted_training_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train.ensure(tmp_path / "demo", seconds=0.1)
    assert list(tmp_path.iterdir()) == []
