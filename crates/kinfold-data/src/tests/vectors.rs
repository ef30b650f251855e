//! Vectors: which belong together, what is refused, and which are held out.

use super::*;
use ndarray::Array2;
use ndarray_npy::write_npy;

fn npy(folder: &Path, name: &str, rows: &[[f32; 2]]) -> PathBuf {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let array = Array2::from_shape_fn((rows.len(), 2), |(row, column)| rows[row][column]);
    write_npy(&path, &array).unwrap();
    path
}

fn alone() -> VectorReading {
    VectorSettings::default().reading(None)
}

fn with_documents(documents: &Path) -> VectorReading {
    VectorSettings { documents: Some(documents.into()), table: None }.reading(None)
}

fn with_table(table: &Path) -> VectorReading {
    VectorSettings { documents: None, table: Some(table.into()) }.reading(None)
}

fn pairs_of(items: &Items) -> Vec<(usize, usize)> {
    (0..items.pairs()).map(|place| items.pair(place)).collect()
}

#[test]
fn rows_of_two_files_belong_together() {
    let folder = tempfile::tempdir().unwrap();
    let queries = npy(folder.path(), "q.npy", &[[3.0, 4.0], [1.0, 0.0], [3.0, 4.0], [0.0, 5.0]]);
    let documents = npy(folder.path(), "d.npy", &[[0.0, 1.0], [-1.0, 0.0], [1.0, 1.0], [8.0, 6.0]]);
    let vectors = Vectors::read(&queries, &with_documents(&documents)).unwrap();
    // Each is as long as 1, and what is equal then is one.
    assert_eq!(vectors.values(0..2), [0.6, 0.8, 0.0, 1.0]);
    assert_eq!(pairs_of(&vectors.items), [(0, 1), (2, 3), (0, 4), (1, 5)]);
    assert_eq!(vectors.items.names[..2], ["q[0]", "d[0]"]);
    let groups: Vec<usize> = vectors.items.listed.iter().map(|pair| pair.group).collect();
    assert_eq!(groups, [0, 1, 0, 3], "two pairs share their query");
    // Labels beside say what else belongs together, and belong to both members.
    write_npy(folder.path().join("labels.npy"), &ndarray::arr1(&[7i64, 8, 9, 8])).unwrap();
    let vectors = Vectors::read(&queries, &with_documents(&documents)).unwrap();
    let groups: Vec<usize> = vectors.items.listed.iter().map(|pair| pair.group).collect();
    assert_eq!(groups, [0, 1, 0, 1]);
    assert_eq!(vectors.items.labels, ["7", "7", "8", "8", "9", "8"]);
}

#[test]
fn pairs_of_names_find_their_vectors() {
    let folder = tempfile::tempdir().unwrap();
    let table = write(folder.path(), "t.csv", "id,x,y\na,2,0\nb,0,1\nc,3,4\n");
    let pairs = write(folder.path(), "p.csv", "anchor,positive,negative\nb,a,c\na,c,b\n");
    let vectors = Vectors::read(&pairs, &with_table(&table)).unwrap();
    assert_eq!(vectors.items.names, ["b", "a", "c"]);
    assert_eq!(vectors.values(0..3), [0.0, 1.0, 1.0, 0.0, 0.6, 0.8]);
    let data = Data::Vectors(vectors.clone());
    let pair = Pair { a: 0, b: 1, pose: 0, group: 0, key: 0, place: 0 };
    let recipe = Recipe::Affine(ViewSettings::default());
    let Views::Vectors { values, dim, queries } = data.draw_batch(&[pair], &recipe, 0, 0).unwrap()
    else {
        panic!("vectors are seen as vectors");
    };
    assert_eq!((dim, queries), (2, 1));
    assert_eq!(values, vectors.values([0, 1, 2].into_iter()), "query, document, negative");
    // Without names, rows go by their number.
    let numbers = npy(folder.path(), "t.npy", &[[0.0, 1.0], [1.0, 0.0]]);
    let pairs = write(folder.path(), "n.csv", "anchor,positive\n1,0\n");
    let vectors = Vectors::read(&pairs, &with_table(&numbers)).unwrap();
    assert_eq!(vectors.values(0..2), [1.0, 0.0, 0.0, 1.0]);
}

#[test]
fn what_is_wrong_with_vectors_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str, rows: &[[f32; 2]]| npy(folder.path(), name, rows);
    let good = at("good.npy", &[[1.0, 0.0], [0.0, 1.0]]);
    let says = |result: Result<Vectors, Error>, parts: &[&str]| {
        let said = result.unwrap_err().to_string();
        for part in parts {
            assert!(said.contains(part), "no {part:?} in: {said}");
        }
    };
    let short = at("short.npy", &[[1.0, 0.0]]);
    says(Vectors::read(&good, &with_documents(&short)), &["[2, 2]", "short.npy is [1, 2]"]);
    let zeros = at("zeros.npy", &[[1.0, 0.0], [0.0, 0.0]]);
    says(Vectors::read(&zeros, &alone()), &["zeros.npy", "row 1", "all zeros"]);
    let nan = at("nan.npy", &[[1.0, f32::NAN]]);
    says(Vectors::read(&nan, &alone()), &["nan.npy", "row 0", "NaN"]);
    let pairs = write(folder.path(), "p.csv", "anchor,positive\n0,1\n1,2\n");
    says(Vectors::read(&pairs, &with_table(&good)), &["line 3", "\"2\"", "0 to 1"]);
    let table = write(folder.path(), "t.csv", "name,x,y\na,1,0\na,0,1\n");
    let pairs = write(folder.path(), "p.csv", "anchor,positive\na,a\n");
    says(Vectors::read(&pairs, &with_table(&table)), &["rows 0 and 1", "\"a\""]);
    let cut = folder.path().join("cut.npy");
    std::fs::write(&cut, &std::fs::read(&good).unwrap()[..130]).unwrap();
    says(Vectors::read(&cut, &alone()), &["cut.npy", "cut off"]);
}

#[test]
fn held_out_queries_are_on_neither_side_of_a_pair_that_is_trained_on() {
    let folder = tempfile::tempdir().unwrap();
    let at = |i: usize| [(i as f32).cos(), (i as f32).sin()];
    // A ring: what is a query here is a document there.
    let queries: Vec<_> = (0..40).map(at).collect();
    let documents: Vec<_> = (0..40).map(|i| at((i + 1) % 40)).collect();
    let queries = npy(folder.path(), "q.npy", &queries);
    let documents = npy(folder.path(), "d.npy", &documents);
    let data = Data::Vectors(Vectors::read(&queries, &with_documents(&documents)).unwrap());
    let items = data.items();
    let split = data.split(0.25);
    let asked: Vec<usize> = split.test_pairs.iter().map(|&place| items.pair(place).0).collect();
    assert_eq!(asked.len(), 10);
    for &place in &split.train_pairs {
        let (a, b) = items.pair(place);
        assert!(!asked.contains(&a) && !asked.contains(&b));
    }
    // What is set aside is of what is trained on, and no more than is asked for.
    let aside = split.with_validation(items, 0.5, 3);
    assert_eq!(aside.test_pairs.len(), 3);
    assert!(aside.test_pairs.iter().all(|place| split.train_pairs.contains(place)));
    assert_eq!(aside.train_pairs.len() + 3, split.train_pairs.len());
}
