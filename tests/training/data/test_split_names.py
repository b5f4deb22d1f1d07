"""The split that a name says plainly, in the languages that people name their folders in."""

import pytest

from edgeclf.training.data.class_folders import says_nothing, split_of_folder


@pytest.mark.parametrize(
    ("name", "split"),
    [
        *((name, "train") for name in ("train", "Training", "training_set", "train_data", "TrainSet", "trainset")),
        *((name, "train") for name in ("seg_train", "train-images", "img train", "Training Data")),
        *(
            (name, "val")
            for name in ("val", "valid", "Validation", "dev", "eval", "val_data", "dev_set", "validset", "validate")
        ),
        *((name, "test") for name in ("test", "testing", "test_set", "seg_test", "testdata", "Test Images", "holdout")),
        *((name, "train") for name in ("Trainingsdaten", "Trainingsbilder", "trainval", "train_val", "TrainVal")),
        *((name, "train") for name in ("Trainings-Daten", "entrenamiento", "entraînement", "entrai\u0302nement")),
        *((name, "val") for name in ("Validierungsdaten", "Validierung", "validación", "datos_validacion")),
        *((name, "test") for name in ("Testdaten", "Test-Daten", "Testbilder", "prueba")),
        *((name, "train") for name in ("apprentissage", "jeu d'entraînement", "Addestramento", "conjunto de treino")),
        *(
            (name, "train")
            for name in ("обучение", "Обучающая выборка", "训练集", "训练数据", "訓練用データ", "학습 데이터")
        ),
        *((name, "val") for name in ("validação", "Validatieset", "проверка", "验证集", "検証データ", "검증")),
        *(
            (name, "test")
            for name in ("tests", "teste", "dati di test", "тест", "тестовая выборка", "测试图片", "テスト")
        ),
        *((name, None) for name in ("测试仪", "обучение кошек", "testdu", "jeu d'échecs", "teste_grau")),
        *((name, None) for name in ("train_val_test", "train/val", "train,val", "trainvaluable", "Testament", "fold1")),
        *((name, None) for name in ("cat", "train_station", "testudo", "trainer", "contest", "test1", "images", "")),
        *((name, None) for name in ("train_test", "validate me", "evaluate", "develop", "seg_pred")),
    ],
)
def test_a_split_by_the_name_of_its_folder(name, split):
    assert split_of_folder(name) == split


@pytest.mark.parametrize(
    ("name", "nothing"),
    [
        ("images", True),
        ("My Data", False),
        ("Bilder", True),
        ("画像", True),
        ("cat images", False),
        ("1", False),
        ("", False),
    ],
)
def test_names_that_say_nothing_but_that_there_are_images(name, nothing):
    assert says_nothing(name) is nothing
