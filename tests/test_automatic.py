"""Settings that fit the data and the machine: what is chosen, said, written and continued with."""

import itertools
import re
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from command import parsed
from PIL import Image

from daso_tf.commands import describe, terminal
from daso_tf.platform.cores import cores
from daso_tf.run.callbacks import TimeLeft
from daso_tf.run.flags_file import changes_since, continued, write_flags_file
from daso_tf.run.preparation import prepare
from daso_tf.settings import automatic, combinations, limits
from daso_tf.settings.automatic import Situation, choose
from daso_tf.settings.flag import as_text
from daso_tf.settings.flags import complete
from daso_tf.settings.methods import LEARNERS

FEW = Situation((40, 22, 12, 7, 4), 800, frozenset([(32, 32)]), cores=2)
MANY = Situation((500,) * 10, 6000, frozenset([(300, 400), (500, 350)]), cores=16)
TINY = Situation((3, 2), 8, frozenset([(8, 9)]), cores=1)
GPU = MANY._replace(gpus=1)
PHOTOS = FEW._replace(pretrained=True)


def values(situation, *argv):
    settings = complete(parsed("--dataset=image_folder", *argv))
    return {name: choice.value for name, choice in choose(situation, settings).items()}


@pytest.mark.parametrize(
    ("situation", "argv", "expected"),
    [
        (FEW, [], {"batch_size": 16, "unlabeled_ratio": 7, "cutout_size": 16}),
        (FEW, ["--source_size=24"], {"cutout_size": 12}),
        (FEW, ["--weak_view=random_resized_crop", "--resolution=24"], {"cutout_size": 12}),
        (FEW, ["--steps=1000"], {"evaluate_every": 50, "ema_decay": 0.98, "pretrain_steps": 100}),
        (FEW, ["--steps=1000"], {"distribution_period": 10}),
        (FEW, ["--steps=250000"], {"ema_decay": 0.999, "distribution_period": 100}),
        (FEW, ["--steps=1000", "--pseudo_labeler=crest"], {"generation_steps": 200}),
        (FEW, ["--steps=1000", "--threshold=adsh"], {"epoch_steps": 20}),
        (FEW, ["--steps=1000", "--balanced_head=cossl"], {"cossl_warmup_steps": 100}),
        (FEW, ["--steps=1000", "--supervised_loss=ldam"], {"ldam_reweight_after": 800}),
        (FEW, ["--steps=1000", "--steps_per_execution=20"], {"evaluate_every": 40}),
        (MANY, [], {"batch_size": 64, "unlabeled_ratio": 1}),
        (TINY, [], {"batch_size": 4, "unlabeled_ratio": 1, "resolution": 16, "cutout_size": 4}),
        (TINY._replace(unlabeled=3), [], {"batch_size": 2, "unlabeled_ratio": 1}),
        (TINY._replace(unlabeled=3), ["--learner=supervised"], {"batch_size": 4}),
        (GPU, [], {"encoder": "wrn_28_2"}),
        (PHOTOS, [], {"encoder": "efficientnet_lite0", "freeze_encoder": True}),
        (PHOTOS, [], {"batch_size": 64}),
        (PHOTOS._replace(labeled=(12, 8)), [], {"batch_size": 16}),
        (PHOTOS._replace(validation=20), [], {"answer": "auto"}),
    ],
)
def test_what_is_chosen(situation, argv, expected):
    assert expected.items() <= values(situation, *argv).items()


@pytest.mark.parametrize(
    ("situation", "argv", "absent"),
    [
        (FEW, ["--steps=7", "--encoder=wrn_10_1"], {"steps", "encoder"}),
        (FEW, [], {"epoch_steps", "generation_steps", "cossl_warmup_steps", "learning_rate"}),
        (FEW, ["--pseudo_labeler=linear"], {"pretrain_steps", "distribution_period"}),
        (FEW, ["--learner=supervised"], {"unlabeled_ratio", "ema_decay", "cutout_size"}),
        (FEW, ["--learner=mixmatch"], {"unlabeled_ratio"}),
        (FEW, ["--encoder_weights=file.npz"], {"encoder"}),
        (FEW, ["--learner=crt", "--from_model_dir=run"], {"encoder", "resolution"}),
        (PHOTOS, [], {"answer"}),
        (FEW._replace(validation=20), [], {"answer"}),
        (PHOTOS._replace(validation=20), ["--learner=supervised"], {"answer"}),
        (PHOTOS._replace(validation=20), ["--answer=run"], {"answer"}),
    ],
)
def test_what_is_given_or_has_no_effect_is_not_chosen(situation, argv, absent):
    assert not absent & values(situation, *argv).keys()


@pytest.mark.parametrize(
    ("labeled", "argv", "adjusted"),
    [
        ((40, 4), [], True),
        ((40, 30), [], False),
        ((40, 4), ["--balanced_head=abc"], False),
        ((40, 4), ["--logit_adjustment=1"], False),
        ((40, 4), ["--learner=crt", "--from_model_dir=run"], False),
    ],
)
def test_the_imbalance_is_countered_once(labeled, argv, adjusted):
    assert ("test_logit_adjustment" in values(FEW._replace(labeled=labeled), *argv)) == adjusted


@pytest.mark.parametrize("situation", [FEW, MANY, TINY, GPU], ids=["few", "many", "tiny", "gpu"])
def test_choices_of_all_methods_are_allowed(situation):
    labelers = ("linear", "daso", "crest_plus")
    for learner, labeler, each in itertools.product(LEARNERS, labelers, (1, 7)):
        given = [f"--learner={learner}", f"--pseudo_labeler={labeler}"]
        given += ["--from_model_dir=run"] * (learner == "crt")
        if any(combinations.refusals(learner, labeler)):
            continue
        settings = complete(
            parsed("--dataset=image_folder", *given, f"--steps_per_execution={each}")
        )
        chosen = choose(situation, settings)
        assert chosen == choose(situation, settings) and chosen.keys() <= set(automatic.NAMES)
        as_flags = [f"--{name}={as_text(choice.value)}" for name, choice in chosen.items()]
        settings = complete(parsed("--dataset=image_folder", *given, *as_flags))
        combinations.check(settings)
        assert limits.shortened(settings) == settings
        assert settings.steps % each == settings.evaluate_every % each == 0
        assert all(choice.reason for choice in chosen.values())


@pytest.mark.parametrize("name", ["open_set", "best", "compare_labels_only", "drop_copies"])
@pytest.mark.parametrize("learner", [[], ["--learner=fixmatch", "--pseudo_labeler=daso"]])
def test_choices_for_photographs_go_with_a_switch(name, learner):
    given = ["--dataset=image_folder", f"--{name}", "--steps=400", *learner]
    settings = complete(parsed(*given))
    chosen = choose(PHOTOS._replace(validation=20), settings)
    as_flags = [f"--{name}={as_text(choice.value)}" for name, choice in chosen.items()]
    combinations.check(complete(parsed(*given, *as_flags)))


def test_learning_rate_on_frozen_features_follows_the_batch():
    def rate(situation, *argv):
        settings = complete(parsed("--dataset=image_folder", *argv))
        chosen = {name: choice.value for name, choice in choose(situation, settings).items()}
        return automatic.with_values(settings, chosen).learning_rate

    few = PHOTOS._replace(labeled=(12, 8))
    assert rate(PHOTOS) == 0.03  # 64 images
    assert rate(few) == 0.03 / 4  # 16; with 0.03 the training diverged
    assert rate(few, "--batch_size=8") == 0.03 / 8
    assert rate(few, "--learning_rate=0.02") == 0.02


def test_steps_follow_the_cost_of_a_step():
    def steps(situation, *argv):
        return values(situation, *argv)["steps"]

    same = ("--resolution=16", "--encoder=wrn_10_2")
    assert steps(FEW._replace(cores=4), *same) == pytest.approx(2 * steps(FEW, *same), rel=0.05)
    assert steps(FEW, *same) > 1.5 * steps(FEW, "--resolution=32", "--encoder=wrn_10_2")
    assert steps(FEW, *same) > 2 * steps(FEW, "--resolution=16", "--encoder=wrn_28_2")
    assert steps(FEW, *same, "--batch_size=32") < steps(FEW, *same)
    assert steps(TINY, "--encoder=applications:VGG16", "--resolution=512") == 200
    assert values(FEW._replace(cores=8))["resolution"] > values(FEW)["resolution"]


def test_cores_of_a_container(tmp_path):
    seen = cores(tmp_path / "missing")
    for content, expected in (("max 100000", seen), ("100000 100000", 1), ("50000 100000", 1)):
        (tmp_path / "cpu.max").write_text(f"{content}\n")
        assert cores(tmp_path / "cpu.max") == expected


@pytest.fixture
def pictures(tmp_path):
    """Six labeled and eight unlabeled pictures of 12 x 12 pixels."""
    random = np.random.default_rng(0)
    names = [f"train/{name}/{i}" for name, count in (("ant", 4), ("bee", 2)) for i in range(count)]
    for name in (*names, *(f"unlabeled/{i}" for i in range(8))):
        path = tmp_path / "pictures" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (12, 12, 3), np.uint8)).save(path)
    return tmp_path / "pictures"


def prepared(pictures, *argv):
    folders = (f"--data_dir={pictures}", f"--model_dir={pictures.parent / 'run'}")
    run = prepare(parsed("--dataset=image_folder", *folders, *argv))
    run.checkpoints.save(run.learner)
    return run


def chosen_of(settings):
    return {name: settings[name] for name in automatic.NAMES}


def test_a_run_says_writes_and_keeps_what_was_chosen(pictures, capsys, monkeypatch):
    monkeypatch.setattr(automatic.cores, "cores", lambda: 2)
    started = prepared(pictures, "--encoder=wrn_10_1").settings
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("Chosen for these pictures and this machine (2 cores)")
    written = (pictures.parent / "run" / "flags.cfg").read_text().splitlines()
    for line in said[1:]:
        flag, reason = re.fullmatch(r"  (--\w+=\S+) +(\S.*)", line).groups()
        assert flag in written and reason
    assert started.steps < 250_000 and not any("--encoder" in line for line in said)

    monkeypatch.setattr(automatic.cores, "cores", lambda: 64)
    more = 2 * started.steps
    again = prepared(pictures, f"--steps={more}").settings
    assert chosen_of(again) == {**chosen_of(started), "steps": more}
    assert "Chosen" not in capsys.readouterr().out


@pytest.mark.parametrize("is_installed", [True, False])
def test_what_needs_frozen_features_is_allowed_where_they_will_be_frozen(monkeypatch, is_installed):
    monkeypatch.setattr(automatic, "_has_pretrained", lambda: is_installed)
    for flag in ("--pseudo_labeler=lda_teacher", "--answer=discriminant"):
        settings = complete(parsed("--dataset=image_folder", flag))
        found = automatic.with_network(settings)
        assert found.freeze_encoder == is_installed
        if is_installed:
            combinations.check(found)
        else:
            with pytest.raises(ValueError, match="give --freeze_encoder"):
                combinations.check(found)
    own = complete(parsed("--dataset=image_folder", "--encoder=wrn_10_1"))
    assert not automatic.with_network(own).freeze_encoder


def test_given_flags_must_fit_what_was_chosen(pictures):
    with pytest.raises(ValueError, match=r"--pretrain_steps=249999 is not below --steps=\d{2,5};"):
        prepared(pictures, "--encoder=wrn_10_1", "--pretrain_steps=249999")
    assert not (pictures.parent / "run").exists()


def test_a_run_of_an_earlier_version_continues_with_what_it_had(tmp_path):
    given = ("--dataset=image_folder", "--data_dir=pictures")
    before = complete(parsed(*given, "--encoder=wrn_10_1", "--batch_size=2"))
    write_flags_file(tmp_path / "flags.cfg", before)
    now = continued(tmp_path / "flags.cfg", complete(parsed(*given)))
    assert chosen_of(now) == chosen_of(before)
    assert (now.steps, now.batch_size, now.ema_decay) == (250_000, 2, 0.999)
    changes = changes_since(tmp_path / "flags.cfg", now)
    assert not (changes.settings or changes.defaults or changes.rules)
    longer = complete(parsed(*given, "--steps=300000"))
    assert continued(tmp_path / "flags.cfg", longer).steps == 300_000


def test_a_damaged_value_is_named(tmp_path):
    (tmp_path / "flags.cfg").write_text("--dataset=image_list\n--steps=many\n")
    with pytest.raises(ValueError, match=r"flags\.cfg is damaged \(--steps=many"):
        continued(tmp_path / "flags.cfg", complete(parsed("--dataset=image_list")))


def test_data_sets_with_published_settings_are_left_alone():
    settings = complete(parsed("--dataset=digits"))
    assert automatic.fitted(settings, None) == (settings, [])


def test_describe_shows_what_training_would_choose(pictures, capsys):
    given = ["--dataset=image_folder", f"--data_dir={pictures}", f"--picture={pictures}/../x.png"]
    assert terminal.call(describe.COMMAND, given) == 0
    output = capsys.readouterr().out
    assert "Chosen for these pictures" in output and "--batch_size=4 " in output


def test_the_time_left_is_said_once_and_evaluations_do_not_count(capsys):
    now = [0.0]
    callback = TimeLeft(1000, "<", seconds=10, clock=lambda: now[0])
    for first, batches in ((100, 5), (105, 30)):
        callback.set_model(SimpleNamespace(step=tf.constant(first)))
        callback.on_epoch_begin(0)
        for batch in range(batches):
            callback.on_train_batch_end(batch)
            now[0] += 0.5
        now[0] += 600.0  # an evaluation
    (line,) = capsys.readouterr().out.splitlines()
    assert line == "<about 7 minutes left until step 1000, evaluations not included (2 steps/s)"
