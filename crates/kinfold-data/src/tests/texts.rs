//! Texts: what their columns are, which pairs belong together, what is refused, and tokens.

use super::*;
use std::collections::HashSet;

/// How texts are read with a small tokenizer of their own.
fn text_reading() -> TextReading {
    TextSettings { vocabulary: Some(200), ..TextSettings::default() }.reading(None)
}

fn read_texts(path: &Path) -> Result<Texts, Error> {
    Texts::read(path, &text_reading())
}

const JSON_LINES: &str = r#"{"anchor": "a cat sat", "positive": "an animal, sitting", "label": "x"}
{"anchor": "two dogs", "positive": "animals", "id": 7}

{"anchor": "three mice", "positive": "animals", "extra": [1, 2]}
{"anchor": "rain", "positive": "weather", "id": 7}
"#;

const CSV: &str = "\u{feff}anchor,positive,label,id\n\"a cat sat\",\"an animal, sitting\",x,\n\
                   two dogs,animals,,7\nthree mice,animals,,\nrain,weather,,7\n";

#[test]
fn pairs_are_the_same_in_every_format() {
    let folder = tempfile::tempdir().unwrap();
    let paths = [
        write(folder.path(), "pairs.jsonl", JSON_LINES),
        write(folder.path(), "pairs.csv", CSV),
        parquet(folder.path()),
    ];
    for path in paths {
        let data = path.to_str().unwrap();
        assert_eq!(Kind::of(data, None), Kind::Texts, "{data}");
        let texts = read_texts(&path).unwrap();
        let items = &texts.items;
        assert_eq!(
            items.names,
            [
                "a cat sat",
                "an animal, sitting",
                "two dogs",
                "animals",
                "three mice",
                "rain",
                "weather"
            ]
        );
        assert_eq!(items.labels[..3], ["x", "x", ""]);
        let pairs: Vec<_> = (0..items.pairs()).map(|place| items.pair(place)).collect();
        assert_eq!(pairs, [(0, 1), (2, 3), (4, 3), (5, 6)]);
        // The second shares its positive with the third, and its id with the fourth.
        let groups: Vec<usize> = items.listed.iter().map(|pair| pair.group).collect();
        assert_eq!(groups, [0, 1, 1, 1]);
        assert_eq!(texts.tokens.ends.len(), 7);
        assert_eq!(texts.tokens.of(3).len(), 1, "a frequent word is one token");
    }
}

/// The same pairs as a Parquet file.
fn parquet(folder: &Path) -> PathBuf {
    use ::parquet::data_type::{ByteArray, ByteArrayType};
    use ::parquet::file::writer::SerializedFileWriter;
    use ::parquet::schema::parser::parse_message_type;
    let schema = "message pairs { required binary anchor (UTF8); required binary positive (UTF8);
                  optional binary label (UTF8); optional binary id (UTF8); }";
    let path = folder.join("pairs.parquet");
    let file = std::fs::File::create(&path).unwrap();
    let schema = std::sync::Arc::new(parse_message_type(schema).unwrap());
    let mut writer = SerializedFileWriter::new(file, schema, Default::default()).unwrap();
    let mut rows = writer.next_row_group().unwrap();
    let columns: [(&[&str], Option<&[i16]>); 4] = [
        (&["a cat sat", "two dogs", "three mice", "rain"], None),
        (&["an animal, sitting", "animals", "animals", "weather"], None),
        (&["x"], Some(&[1, 0, 0, 0])),
        (&["7", "7"], Some(&[0, 1, 0, 1])),
    ];
    for (cells, defined) in columns {
        let cells: Vec<ByteArray> = cells.iter().map(|&cell| cell.into()).collect();
        let mut column = rows.next_column().unwrap().unwrap();
        column.typed::<ByteArrayType>().write_batch(&cells, defined, None).unwrap();
        column.close().unwrap();
    }
    rows.close().unwrap();
    writer.close().unwrap();
    path
}

#[test]
fn texts_alone_scores_and_columns_of_other_names() {
    let folder = tempfile::tempdir().unwrap();
    let alone = "{\"text\": \"one\", \"label\": 3}\n{\"text\": \"two\"}\n{\"text\": \"one\"}\n";
    let texts = read_texts(&write(folder.path(), "alone.jsonl", alone)).unwrap();
    // A row each, also where two are equal.
    assert_eq!(
        (texts.items.names.join(" "), texts.items.labels.join(",")),
        ("one two one".into(), "3,,".into())
    );
    assert!(!texts.items.is_list());

    let scored = "sentence1,sentence2,score\na cat,a dog,2.5\na cat,a car,0\n";
    let texts = read_texts(&write(folder.path(), "sts.csv", scored)).unwrap();
    assert_eq!((texts.items.pairs(), texts.scores), (2, vec![2.5, 0.0]));

    let other = write(folder.path(), "other.csv", "query,document,url\nwho,them,x\nwhat,that,y\n");
    let named =
        TextSettings { columns: Some(["query".into(), "document".into()]), ..Default::default() };
    assert_eq!(Kind::of(other.to_str().unwrap(), None), Kind::Images);
    assert_eq!(Kind::of(other.to_str().unwrap(), named.columns.as_ref()), Kind::Texts);
    let texts = Texts::read(&other, &named.reading(None)).unwrap();
    assert_eq!(texts.items.names, ["who", "them", "what", "that"]);
}

#[test]
fn what_is_no_text_is_named_with_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let long = format!("{{\"anchor\": \"a\", \"positive\": \"{}\"}}\n", "long ".repeat(2_100_000));
    let cases: [(&str, &[u8], &str); 9] = [
        (
            "a.jsonl",
            b"{\"anchor\": \"a\", \"negative\": \"b\"}\n",
            "no column `positive`, but anchor, negative",
        ),
        (
            "b.jsonl",
            b"{\"anchor\": \"a\", \"positive\": \"b\"}\n{\"anchor\": \"a\", \"positive\": \" \"}",
            "line 2: its `positive` is empty",
        ),
        (
            "c.jsonl",
            b"{\"anchor\": \"a\", \"positive\": \"b\"}\n{\"anchor\": \"a\"}",
            "line 2: its `positive` is empty",
        ),
        ("d.jsonl", b"{\"anchor\": \"a\", \"positive\": \"\xff\"}\n", "line 1: it is not UTF-8"),
        ("e.jsonl", b"{\"anchor\": \"a\", \"positive\": \n", "line 1: it is no JSON object"),
        (
            "f.jsonl",
            long.as_bytes(),
            "line 1: its `positive` has 10500000 bytes, but a text may have 1048576",
        ),
        ("g.csv", b"anchor,positive\na,b\nc\n", "line 3: it has 1 cells, but there are 2 columns"),
        (
            "h.csv",
            b"sentence1,sentence2,score\na,b,high\n",
            "line 2: its `score` is \"high\", but a number",
        ),
        ("i.csv", b"anchor,positive\n", "it has no row"),
    ];
    for (name, bytes, needed) in cases {
        let path = write(folder.path(), name, bytes);
        let said = read_texts(&path).unwrap_err().to_string();
        assert!(said.contains(needed) && said.contains(name), "no {needed:?} in: {said}");
    }
    let torn = write(
        folder.path(),
        "torn.parquet",
        &std::fs::read(parquet(folder.path())).unwrap()[..200],
    );
    assert!(read_texts(&torn).unwrap_err().to_string().contains("cannot be read as Parquet"));
}

#[test]
fn negatives_come_with_their_pairs() {
    let folder = tempfile::tempdir().unwrap();
    let rows = "anchor,positive,negative_1,negative_2,negatives\na,b,c,d,x\n\u{306e},b,d,c,x\ne,f,b,\u{306e},x\n";
    // A tokenizer that was trained on other texts.
    let source = TokenizerSource::WordPiece { vocabulary: 100 };
    let letters = Tokenizer::new(&source, &["a b c d e f"]).unwrap();
    let letters = write(folder.path(), "tokenizer.json", letters.to_json().unwrap());
    let reading = TextSettings::default().reading(Some(letters));
    let texts = Texts::read(&write(folder.path(), "pairs.csv", rows), &reading).unwrap();
    let items = &texts.items;
    // The second has no token, and its negatives go with it.
    assert_eq!((items.pairs(), items.skipped.len(), items.negatives_per_pair()), (2, 1, 2));
    let named = |place: usize| -> Vec<&str> {
        items.negatives(place).iter().map(|&row| &*items.names[row]).collect()
    };
    assert_eq!((named(0), named(1)), (vec!["c", "d"], vec!["b", "\u{306e}"]));
    let row = |name: &str| items.names.iter().position(|other| other == name).unwrap();
    assert_eq!(items.groups_of_seconds()[row("b")], Some(items.listed[0].group));
    assert_eq!(items.groups_of_seconds()[row("c")], None);
    let data = Data::Texts(texts.clone());
    let pairs = Pairs::new(&texts.items, &data.split(0.0), &PairSettings::default()).unwrap();
    let batch = pairs.batches(2, 0, 0).remove(0);
    let recipe = Recipe::Affine(ViewSettings::default());
    let Views::Tokens(bags) = data.draw_batch(&batch, &recipe, 0, 0).unwrap() else {
        panic!("texts have tokens")
    };
    assert_eq!(bags.ends.len(), 2 * (2 + 2));
    let first = texts.items.negatives(batch[0].place);
    assert_eq!((bags.of(4), bags.of(5)), (texts.tokens.of(first[0]), texts.tokens.of(first[1])));
}

#[test]
fn whole_groups_are_held_out() {
    let folder = tempfile::tempdir().unwrap();
    let rows: String = (0..60)
        .map(|i| format!("{{\"anchor\": \"query {i}\", \"positive\": \"answer {}\"}}\n", i / 3))
        .collect();
    let texts = read_texts(&write(folder.path(), "pairs.jsonl", rows)).unwrap();
    let data = Data::Texts(texts);
    let (items, split) = (data.items(), data.split(0.2));
    assert_eq!((split.train_pairs.len(), split.test_pairs.len()), (48, 12));
    let of = |places: &[usize]| -> HashSet<usize> {
        places.iter().map(|&place| items.listed[place].group).collect()
    };
    assert!(of(&split.train_pairs).is_disjoint(&of(&split.test_pairs)));
    // Rows are those of the pairs.
    assert_eq!((split.train.len(), split.test.len()), (48 + 16, 12 + 4));
    let pairs = Pairs::new(items, &split, &PairSettings::default()).unwrap();
    assert_eq!((pairs.len(), pairs.share_groups()), (48, true));
    let (shown, held_out) = Pairs::to_look_at(items, &split, &PairSettings::default(), 2).unwrap();
    assert_eq!((shown.len(), held_out), (12, true));
    // A single group is trained on.
    assert_eq!(data.split(0.99).train_pairs.len(), 3);
    assert!(data.split(0.0).test_pairs.is_empty());
    // What is seen of a pair is its texts' tokens.
    let batch = pairs.batches(4, 0, 0).remove(0);
    let Data::Texts(texts) = &data else { unreachable!() };
    let recipe = Recipe::Affine(ViewSettings::default());
    let Views::Tokens(bags) = data.draw_pairs(&batch, &recipe, 0, 0).unwrap() else {
        panic!("texts have tokens")
    };
    for (i, pair) in batch.iter().enumerate() {
        assert_eq!(bags.of(i), texts.tokens.of(pair.a));
        assert_eq!(bags.of(i + 4), texts.tokens.of(pair.b));
    }
}

#[test]
fn tokenizers_are_trained_written_and_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let texts: Vec<String> =
        (0..200).map(|i| format!("the Lower and newer word {i} — naïve café")).collect();
    for source in
        [TokenizerSource::WordPiece { vocabulary: 120 }, TokenizerSource::Bpe { vocabulary: 300 }]
    {
        let tokenizer = Tokenizer::new(&source, &texts).unwrap();
        let again = Tokenizer::new(&source, &texts).unwrap();
        assert_eq!(tokenizer.to_json().unwrap(), again.to_json().unwrap(), "made twice alike");
        let path = write(folder.path(), "tokenizer.json", tokenizer.to_json().unwrap());
        let read = Tokenizer::from_file(&path).unwrap();
        assert_eq!(read.rows(), tokenizer.rows());
        let bags = tokenizer.encode(&texts).unwrap();
        assert_eq!(read.encode(&texts).unwrap(), bags);
        assert!(bags.ids.iter().all(|&id| (id as usize) < tokenizer.rows()));
        assert!(tokenizer.pieces("the word").unwrap().concat().contains("word"));
    }
    // What is unknown is no token.
    let words = Tokenizer::new(&TokenizerSource::WordPiece { vocabulary: 120 }, &texts).unwrap();
    assert!(words.unknown().is_some());
    let bags = words.encode(&["の", "the の word", ""]).unwrap();
    assert_eq!((bags.of(0).len(), bags.of(1).len(), bags.of(2).len()), (0, 2, 0));
    let none = write(folder.path(), "none.json", "{}");
    assert!(
        Tokenizer::from_file(&none).unwrap_err().to_string().contains("it describes no tokenizer")
    );
}
