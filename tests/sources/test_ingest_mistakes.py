"""Stage `ingest` on tables that are not what the parameters say: one line names what was found, and what to do."""

import pytest

from stillhouse.sources.files import FilesSource, read_files
from stillhouse.sources.formats import Form
from stillhouse.sources.peek import columns_of, first_rows
from tests.helpers.one_table import WORDS, refused, rows_of

# ---- delimiters and headers ----


@pytest.mark.parametrize(("delimiter", "written"), [(";", ";"), ("\t", "\\t"), ("|", "|")])
def test_another_delimiter_is_named_as_params_yaml_writes_it(project, delimiter, written):
    content = f"text{delimiter}label\nhello, you{delimiter}a\nby, you{delimiter}b\n"
    message = refused(project, content)
    assert message == (
        f"data/raw/a.csv is separated by {delimiter!r}, not by ',' (its first line is {'text' + delimiter + 'label'!r}); set "
        f"'delimiter: \"{written}\"'"
    )
    assert rows_of(project, content, delimiter=delimiter) == [["hello, you", "a"], ["by, you", "b"]]


def test_commas_in_a_tsv_file_are_named_too(project):
    assert refused(project, "text,label\nx,a\ny,b\n", "a.tsv").startswith("data/raw/a.tsv is separated by ',', not by '\\t' (")
    assert rows_of(project, "text,label\nx,a\ny,b\n", "a.tsv", delimiter=",") == [["x", "a"], ["y", "b"]]


def test_another_delimiter_is_seen_where_the_columns_have_other_names(project):
    content = "id;utterance;intent\n" + "".join(f"{i};hello, you {i};a\n" for i in range(5))
    assert refused(project, content).startswith("data/raw/a.csv is separated by ';', not by ',' (its first line is 'id;utteran")


def test_a_text_with_semicolons_is_no_sign_of_another_delimiter(project):
    message = refused(project, "sentence,label\none; two,a\nthree,b\n")
    assert message == "data/raw/a.csv has no column 'text' (parameter 'text'); known: label, sentence"


def test_blanks_around_the_names_of_a_header_are_no_part_of_them(project):
    assert rows_of(project, "text, label\nx, a\ny, b\n") == [["x", "a"], ["y", "b"]]


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        ('text, label\n"hello 0, you", "a"\n"say ""hi"", you", "b"\n', [["hello 0, you", "a"], ['say "hi", you', "b"]]),
        ('"label", "text"\n"a", "one, ""two"""\nb,  "three\nfour"\n', [['one, "two"', "a"], ["three\nfour", "b"]]),
        ('text;label\nx; "a"\ny;b\n', [["x", "a"], ["y", "b"]]),
        ('label,text\na, "one" is one\nb, "two"\n', [[' "one" is one', "a"], [' "two"', "b"]]),
        ('label,text\na, 12 inch\nb,"so, ""two"""\n', [[" 12 inch", "a"], ['so, "two"', "b"]]),
        ('label,text\na, 12 inch\nb," ""so"", ""two"""\n', [[" 12 inch", "a"], [' "so", "two"', "b"]]),
    ],
    ids=["all quoted", "header and line break", "semicolons", "no marks", "no blank and quote", "blank inside of quotes"],
)
def test_a_quote_behind_a_blank_opens_a_field_where_all_of_them_do(project, content, rows):
    keys = {"delimiter": ";"} if ";" in content else {}
    assert sorted(rows_of(project, content, **keys)) == sorted(rows)
    form = Form(**keys)
    columns = columns_of(project.raw / "a.csv", {}, form)
    assert sorted(columns) == ["label", "text"]
    assert sorted(first_rows(project.raw / "a.csv", form, 9)[["text", "label"]].to_numpy().tolist()) == sorted(rows)


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_a_file_without_a_header_is_refused_and_read_once_its_columns_are_named(project, name):
    delimiter = "\t" if name == "a.tsv" else ","
    content = "".join(f"the food was {word} {i}{delimiter}{WORDS[i % 2]}\n" for i, word in enumerate(WORDS * 3))
    message = refused(project, content, name)
    assert message == (
        f"data/raw/{name} has no header: its first row ('the food was good 0', 'good') is like the others; name the columns in "
        "their order, 'columns: [text, label]', or put such a line before the rows"
    )
    rows = rows_of(project, content, name, columns=["text", "label"])
    assert (len(rows), rows[0]) == (18, ["the food was good 0", "good"])


def test_columns_that_do_not_fit_the_file_are_refused(project):
    message = refused(project, "x,a,1\ny,b,2\n", columns=["text", "label"])
    assert message.startswith("data/raw/a.csv, row 1 (line 1): 3 field(s), 'columns' has 2; quote texts that hold ','")
    message = refused(project, "text,label\nx,a\ny,b\n", columns=["text", "label"])
    assert message.startswith("data/raw/a.csv has a header, which 'columns' repeats: leave 'columns' out")


# ---- quotes that join rows ----


SENTENCES = ['"I think this is good .\tpos', "nothing to add\tneg", 'he said so ."\tneg', "fine\tpos"]


def test_quotes_of_a_tsv_file_that_would_join_rows_are_characters_and_this_is_said(project):
    (project.raw / "a.tsv").write_text("text\tlabel\n" + "\n".join(SENTENCES) + "\n")
    notes: list[str] = []
    table, _ = read_files(FilesSource(kind="files", train="a.tsv"), notes=notes)
    assert table["text"].tolist() == [line.split("\t")[0] for line in SENTENCES]
    assert notes == [
        "data/raw/a.tsv: quotes are read as characters, because read as the marks of fields they do not fit (row 1 (line 2): a "
        "quote opens a field of 3 lines that look like rows of their own (one has 'pos' where other rows have it)); 'quotes: "
        "none' or 'quotes: standard' settles it"
    ]
    rows = rows_of(project, "text\tlabel\n" + "\n".join(SENTENCES) + "\n", "a.tsv", quotes="standard")
    assert len(rows) == 2, "who says what quotes are is believed"


@pytest.mark.parametrize(
    "lines",
    [
        ['"so" and "so"\tpos', "nothing\tneg"],
        ['"open\tpos', "nothing\tneg"],
        ['nothing "to" add\tneg', '"open\tpos', "fine\tneg"],
        ['neg\tpos\t"a', 'pos\tneg\tb"', "neg\tpos\tc"],
    ],
)
def test_a_tsv_file_whose_quotes_fit_nothing_has_as_many_rows_as_lines(project, lines):
    header = "text\tlabel\tmore" if len(lines[0].split("\t")) == 3 else "text\tlabel"
    rows = rows_of(project, "\n".join([header, *lines]) + "\n", "a.tsv")
    assert rows == [line.split("\t")[:2] for line in lines]


def test_a_stray_quote_of_a_csv_file_that_would_join_rows_is_refused(project):
    content = "text,label\n" + "\n".join(line.replace("\t", ",") for line in SENTENCES) + '\n"Hello, you",pos\n'
    message = refused(project, content)
    assert message == (
        "data/raw/a.csv, row 1 (line 2): a quote opens a field of 3 lines that look like rows of their own (one has 'pos' "
        "where other rows have it); double or delete the quote, or set 'quotes: none' if quotes are characters of the texts, "
        "'quotes: standard' if the field is meant so"
    )
    assert len(rows_of(project, content, quotes="standard")) == 3
    # As characters the last row's quotes leave one field too many.
    assert "3 field(s), the header has 2" in refused(project, content, quotes="none")


def test_the_class_may_stand_first_and_numbers_may_be_classes(project):
    content = 'id,label,text\n1,0,"one\n2,1,two\n3,0,three"\n4,1,four\n'
    assert "(line 2): a quote opens a field of 3 lines that look like rows" in refused(project, content)


@pytest.mark.parametrize(
    "text",
    ["one\ntwo", "Dear Sir,\nthank you,\nyours", "Hello, you\nbye", 'a, b\n"c"\nd', "x,a\ny", "list:\n1, 2\n3, 4\n"],
)
def test_line_breaks_inside_of_quotes_are_part_of_the_text(project, text):
    quoted = text.replace('"', '""')
    rows = rows_of(project, f'text,label\n"{quoted}",greeting\nfine,other\nwell,greeting\n')
    assert rows == [[text, "greeting"], ["fine", "other"], ["well", "greeting"]]


def test_the_documents_of_a_corpus_are_not_joined_by_a_quote(project):
    lines = ['1\t"I think so .', "2\tnothing", '3\the said ."', "4\tfine"]
    (project.raw / "a.tsv").write_text("id\ttext\n" + "\n".join(lines) + "\n")
    table, _ = read_files(FilesSource(kind="files", train="a.tsv"), labelled=False)
    assert table["text"].tolist() == [line.split("\t")[1] for line in lines]


def test_a_quote_that_is_never_closed_is_named_where_it_opens(project):
    message = refused(project, "text,label\nx,a\n" + '"y,b\n' + "z,a\n" * 500)
    assert message == "data/raw/a.csv, row 2 (line 3): unexpected end of data; check its quotes"


@pytest.mark.parametrize("header", ['"text"\t"label"', "text\tlabel"])
@pytest.mark.parametrize("label", ['"{}"', "{}"], ids=["quoted", "numbers"])
def test_a_stray_quote_in_a_tsv_file_of_quoted_fields_is_told_with_its_row(project, header, label):
    rows = [('"one"', label.format(1)), ('"two "x" y"', label.format(2)), ('"three"', label.format(1))]
    content = header + "\n" + "".join(f"{text}\t{number}\n" for text, number in rows)
    assert refused(project, content, "a.tsv") == (
        "data/raw/a.tsv, row 2 (line 3): '\t' expected after '\"'; check its quotes, or set 'quotes: none' if quotes are "
        "characters of the texts"
    )
