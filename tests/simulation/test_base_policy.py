import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from online_trl.simulation import helpdesk
from online_trl.simulation.base_policy import build_tokenizer
from online_trl.simulation.taste import Taste


def test_the_tokenizer_survives_the_round_trip(tmp_path):
    texts = [message["content"] for row in helpdesk.generate_conversations(50, 0) for message in row["messages"]]
    tokenizer = build_tokenizer(texts)
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    messages = [{"role": "user", "content": texts[0]}, {"role": "assistant", "content": texts[1]}]
    prompt = tokenizer.apply_chat_template(messages[:1], add_generation_prompt=True, tokenize=False)
    whole = tokenizer.apply_chat_template(messages, tokenize=False)
    assert whole.startswith(prompt)
    for text in (whole, *texts[:50], "  two  spaces, ümläuts and <|end|>"):
        assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert loaded.decode(loaded(texts[0])["input_ids"]) == texts[0]
    assert (loaded.eos_token_id, loaded.pad_token_id) == (tokenizer.eos_token_id, tokenizer.pad_token_id)


def test_the_policy_is_small_and_writes_answers_that_end(base_policy):
    tokenizer = AutoTokenizer.from_pretrained(base_policy)
    model = AutoModelForCausalLM.from_pretrained(base_policy)
    assert 0.3e6 < sum(parameter.numel() for parameter in model.parameters()) < 1.0e6
    questions = helpdesk.held_out_questions()[:16]
    prompts = [[{"role": "user", "content": question.text}] for question in questions]
    inputs = tokenizer.apply_chat_template(
        prompts, add_generation_prompt=True, return_dict=True, return_tensors="pt", padding=True, padding_side="left"
    )
    torch.manual_seed(0)
    output = model.generate(**inputs, max_new_tokens=80)
    answers = output[:, inputs["input_ids"].shape[1] :]
    ended = [(answer == tokenizer.eos_token_id).any().item() for answer in answers]
    assert sum(ended) >= 14
    taste = Taste(0)
    texts = tokenizer.batch_decode(answers, skip_special_tokens=True)
    liked = [taste.satisfaction(question.text, text) for question, text in zip(questions, texts, strict=True)]
    assert 0.1 < sum(liked) / len(liked) < 0.7
    assert max(liked) - min(liked) > 0.2
