//! Lists of pairs.

use super::*;

#[test]
fn a_list_is_read_with_or_without_a_heading_as_csv_or_json() {
    let folder = small_folder();
    let rows = "./a/0.png,c/d/1.png,7\n a/1.png , a/2.png\nc/d/1.png,alone.png,7\n";
    let json = r#"{"a": "a/0.png", "b": "c/d/1.png", "id": 7}

{"a": "a/1.png", "b": "a/2.png"}
{"a": "c/d/1.png", "b": "alone.png", "id": "7"}"#;
    for (name, text) in [
        ("bare.csv", rows.to_owned()),
        ("headed.csv", format!("\u{feff}a,b,id\r\n{rows}")),
        ("list.jsonl", json.to_owned()),
    ] {
        let path = write(folder.path(), name, text);
        let images = read(&path, &reading(4, 1)).unwrap();
        assert_eq!(images.items.names, ["a/0.png", "c/d/1.png", "a/1.png", "a/2.png", "alone.png"]);
        assert!(images.items.labels.iter().all(String::is_empty) && images.items.is_list());
        let split = Split::new(&images.items, 0.2);
        assert_eq!((split.train.len(), split.test.len()), (5, 0));
        let pairs = Pairs::new(&images.items, &split, &PairSettings::default()).unwrap();
        assert_eq!(pairs.len(), 3);
        let mut batch = pairs.batches(3, 0, 0).remove(0);
        batch.sort_by_key(|pair| (pair.a, pair.b));
        let members: Vec<_> = batch.iter().map(|pair| (pair.a, pair.b)).collect();
        assert_eq!(members, [(0, 1), (1, 4), (2, 3)]);
        assert!(batch[0].group == batch[1].group && batch[0].group != batch[2].group);
    }
}

#[test]
fn pairs_with_an_image_that_cannot_be_read_are_left_out() {
    let folder = small_folder();
    write(folder.path(), "foreign.png", "no image");
    let text = "a,b\nforeign.png,a/0.png\na/1.png,a/2.png\na/0.png,gone.png\n";
    let path = write(folder.path(), "list.csv", text);
    let images = read(&path, &reading(4, 1)).unwrap();
    assert_eq!(images.items.names, ["a/0.png", "a/1.png", "a/2.png"]);
    let reasons: Vec<&str> = images.items.skipped.iter().map(|s| &*s.reason).collect();
    assert_eq!(images.items.skipped.len(), 4);
    assert!(reasons[2].contains("line 2") && reasons[3].contains("line 4"), "{reasons:?}");
    let split = Split::new(&images.items, 0.2);
    let pairs = Pairs::new(&images.items, &split, &PairSettings::default()).unwrap();
    let pair = pairs.batches(1, 0, 0).remove(0)[0];
    assert_eq!((pairs.len(), pair.a, pair.b), (1, 1, 2));

    std::fs::write(&path, "foreign.png,a/0.png\n").unwrap();
    refused(&path, &["list.csv", "none of its 1 pairs"]);
    std::fs::write(&path, "foreign.png,gone.png\n").unwrap();
    refused(&path, &["list.csv", "none of the 2 images"]);
}

#[test]
fn damaged_lists_are_refused() {
    let folder = small_folder();
    let path = folder.path().join("list.csv");
    for (text, parts) in [
        ("", vec!["no row"]),
        ("a,b\n", vec!["no row"]),
        ("a/0.png,a/1.png\na/0.png\n", vec!["line 2 has 1 cells", "`a,b,id`"]),
        ("a/0.png,a/1.png,1,2\n", vec!["line 1 has 4 cells"]),
        ("a/0.png,a/1.png\na/0.png,,3\n", vec!["line 2 has no b"]),
        ("anchor,positive\na/0.png,a/1.png\n", vec!["`anchor,positive`", "`a,b` or `a,b,id`"]),
        ("a/0.png,a/1.png\n\"a/0.png,a/1.png\na/2.png,a/1.png\n", vec!["quote begins in line 2"]),
        ("a/0.png,a/1.png\na/0.png,\"a/1.png\n", vec!["quote begins in line 2"]),
        ("a/0.png,\"a/1.png", vec!["quote begins in line 1"]),
    ] {
        std::fs::write(&path, text).unwrap();
        refused(&path, &[&["list.csv"], &parts[..]].concat());
    }
    std::fs::write(&path, b"a,b\n\xff,x\n").unwrap();
    refused(&path, &["list.csv", "line 2 is not UTF-8"]);
    let path = folder.path().join("list.jsonl");
    for text in [r#"{"a": "a/0.png"}"#, r#"{"a": "x", "b": "y", "c": 1}"#, "[1, 2]", "{"] {
        std::fs::write(&path, format!("\n{text}\n")).unwrap();
        refused(&path, &["list.jsonl", "line 2 is not {"]);
    }
}

#[test]
fn what_is_no_list_has_no_pairs_of_one() {
    let images = labelled(&["a", "a"]);
    let settings = PairSettings { of: Some(PairSource::List), ..Default::default() };
    let said = Pairs::new(&images.items, &Split::new(&images.items, 0.2), &settings).unwrap_err();
    assert!(said.is_usage() && said.to_string().contains(".csv or .jsonl"), "{said}");
}
