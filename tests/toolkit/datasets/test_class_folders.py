import pytest

from edgeclf.runtime.errors import DatasetError
from edgeclf.toolkit.datasets.class_folders import match_class_folders
from edgeclf.toolkit.datasets.evaluation_set import find_image_files


@pytest.mark.parametrize(
    ("folders", "labels", "indices"),
    [
        (["b", "a"], ["a", "b", "c"], {"a": 0, "b": 1}),
        (["Golden_Retriever"], ["tabby", "golden retriever"], {"Golden_Retriever": 1}),
        (["tench"], ["tench, Tinca tinca", "goldfish, Carassius auratus"], {"tench": 0}),
        # Two classes are spelled alike, or begin alike: a folder is named for neither.
        (["crane"], ["crane, bird", "crane, machine"], {}),
        (["cat"], ["Cat", "CAT"], {}),
        # The exact name wins over a similar one.
        (["cat", "Cat"], ["Cat", "cat"], {"cat": 1, "Cat": 0}),
        # Numbers are indices where no folder has a name of the model.
        (["0", "2"], ["a", "b", "c"], {"0": 0, "2": 2}),
        (["0", "3"], ["a", "b", "c"], {}),
        (["0", "a"], ["a", "b", "c"], {"a": 0}),
        # Names that are numbers are names.
        (["7", "1"], ["1", "7"], {"7": 1, "1": 0}),
        (["tea"], ["a", "b"], {}),
    ],
)
def test_folders_have_the_label_they_are_named_for(folders, labels, indices):
    assert match_class_folders(folders, labels) == indices


def test_a_csv_may_have_classes_that_differ_by_case_where_the_model_has(tmp_path):
    (tmp_path / "data.csv").write_text("path,label\na.jpg,Cardigan\nb.jpg,cardigan\n", encoding="utf-8")
    found = find_image_files(tmp_path / "data.csv", ["cardigan", "tench", "Cardigan"], need_labels=True)
    assert [path.name for path in found.paths] == ["a.jpg", "b.jpg"]
    assert found.true_indices == (2, 0)
    with pytest.raises(DatasetError, match="do not match the model: got class folders cardigan"):
        find_image_files(tmp_path / "data.csv", ["Cardigan", "tench"], need_labels=False)
