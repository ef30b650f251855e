//! IDX, CIFAR and NumPy.

use super::*;
use flate2::{Compression, write::GzEncoder};
use ndarray::{Array, Array1, Array3, Array4};
use ndarray_npy::write_npy;
use std::io::Write;

pub(super) fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut gz = GzEncoder::new(Vec::new(), Compression::default());
    gz.write_all(bytes).unwrap();
    gz.finish().unwrap()
}

fn idx(sides: &[u32], numbers: impl IntoIterator<Item = u8>) -> Vec<u8> {
    let mut bytes = vec![0, 0, 8, sides.len() as u8];
    bytes.extend(sides.iter().flat_map(|side| side.to_be_bytes()));
    bytes.extend(numbers);
    bytes
}

/// `n` images of 4×3 whose pixels count on from `first`, and labels 0, 1, 2, 0, …
pub(super) fn mnist(n: u32, first: u8) -> [Vec<u8>; 2] {
    let pixels = (0..n * 12).map(|i| i as u8 + first);
    [idx(&[n, 4, 3], pixels), idx(&[n], (0..n).map(|i| i as u8 % 3))]
}

#[test]
fn mnist_is_read_packed_or_not_and_holds_out_its_test_images() {
    let folder = tempfile::tempdir().unwrap();
    let ([train, train_labels], [test, test_labels]) = (mnist(12, 0), mnist(3, 100));
    write(folder.path(), "train-images-idx3-ubyte.gz", gz(&train));
    write(folder.path(), "train-labels-idx1-ubyte.gz", gz(&train_labels));
    write(folder.path(), "t10k-images.idx3-ubyte", &test);
    write(folder.path(), "t10k-labels.idx1-ubyte", &test_labels);
    let images = read(folder.path(), &reading(3, 1)).unwrap();
    assert_eq!((images.len(), images.items.held_out.clone()), (15, 12..15));
    assert_eq!(
        (&*images.items.names[0], &*images.items.names[11], &*images.items.names[14]),
        ("train/00", "train/11", "t10k/2")
    );
    assert_eq!((&*images.items.labels[4], &*images.items.labels[14]), ("1", "2"));
    let original = images.original(12).unwrap();
    assert_eq!((original.width, original.height), (3, 4));
    assert_eq!(original.pixels, (100..112).collect::<Vec<u8>>());
    let split = Split::new(&images.items, 0.2);
    assert_eq!((split.train.len(), split.test), (12, vec![12, 13, 14]));

    // One file alone, not packed, from memory and from disk.
    let path = write(folder.path(), "train-images-idx3-ubyte", &train);
    let alone = read(&path, &reading(3, 1)).unwrap();
    let disk = read(&path, &Reading { memory: 0, ..reading(3, 1) }).unwrap();
    assert_eq!((alone.len(), alone.in_memory(), disk.in_memory()), (12, 12, 0));
    assert!(Split::new(&alone.items, 0.2).test.len() == 3);
    assert_same(&alone, &disk);
    assert_eq!(alone.image(5).unwrap(), images.image(5).unwrap());
    // Packed and not packed is the same file twice.
    assert_eq!(read(folder.path(), &reading(3, 1)).unwrap().len(), 15);
}

#[test]
fn images_just_as_needed_are_not_kept_twice() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), "images-idx3-ubyte", idx(&[2, 3, 3], 0..18));
    write(folder.path(), "labels-idx1-ubyte", idx(&[2], [7, 9]));
    let images = read(&path, &Reading { memory: 18, ..reading(3, 1) }).unwrap();
    assert_eq!((images.in_memory(), &*images.items.names[1]), (2, "images/1"));
    assert_eq!(images.scaled(1).unwrap().pixels, (9..18).collect::<Vec<u8>>());
    let colour = read(&path, &reading(3, 3)).unwrap();
    assert_eq!(colour.image(1).unwrap(), images.image(1).unwrap().repeat(3));
}

#[test]
fn damaged_idx_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let [images, labels] = mnist(5, 0);
    let path = folder.path().join("train-images-idx3-ubyte");
    let labels_path = folder.path().join("train-labels-idx1-ubyte");
    let images_are = |bytes: &[u8]| std::fs::write(&path, bytes).unwrap();
    images_are(&images);
    refused(&path, &["train-images-idx3-ubyte", "needs its labels", "train-labels-idx1-ubyte"]);
    refused(folder.path(), &["needs its labels"]);
    let labels_are = |bytes: &[u8]| std::fs::write(&labels_path, bytes).unwrap();
    labels_are(&labels);
    assert!(read(&path, &reading(4, 1)).is_ok());

    images_are(&images[..images.len() - 1]);
    refused(&path, &["5 images of 4×3", "need 60 bytes", "59 are there"]);
    images_are(&[&images[..], &[0]].concat());
    refused(&path, &["need 60 bytes", "more follow"]);
    images_are(&images[..10]);
    refused(&path, &["ends within its header of 16 bytes"]);
    images_are(&labels.repeat(3));
    refused(&path, &["0x00000801", "0x00000803"]);
    images_are(&idx(&[0, 4, 3], []));
    refused(&path, &["0 images of 4×3"]);
    images_are(&idx(&[u32::MAX; 3], [1, 2, 3]));
    refused(&path, &["4294967295 images", "3 are there"]);

    images_are(&images);
    labels_are(&mnist(4, 0)[1]);
    refused(&path, &["train-labels-idx1-ubyte", "4 labels", "has 5 images"]);
    labels_are(&labels[..labels.len() - 2]);
    refused(&path, &["5 labels need 5 bytes, but 3 are there"]);
    labels_are(&images);
    refused(&path, &["train-labels-idx1-ubyte", "0x00000803", "0x00000801"]);
}

#[test]
fn damaged_packed_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let [images, labels] = mnist(500, 0);
    let name = "train-images-idx3-ubyte.gz";
    let path = write(folder.path(), name, gz(&images));
    write(folder.path(), "train-labels-idx1-ubyte", labels);
    assert_eq!(read(&path, &reading(4, 1)).unwrap().len(), 500);
    let small = read(&path, &Reading { memory: 5999, ..reading(4, 1) });
    let said = small.unwrap_err().to_string();
    assert!(
        said.contains(name) && said.contains("6000 bytes") && said.contains("unpack it"),
        "{said}"
    );

    let packed = gz(&images);
    write(folder.path(), name, &packed[..packed.len() / 2]);
    refused(&path, &[name, "cannot be unpacked"]);
    write(folder.path(), name, &images);
    refused(&path, &[name, "cannot be read"]);
    // It says that it is small but goes on and on.
    write(folder.path(), name, gz(&[images, vec![0; 1 << 20]].concat()));
    refused(&path, &[name, "more follow"]);
    write(folder.path(), "emnist-train-images-idx3-ubyte", mnist(2, 0)[0].clone());
    refused(folder.path(), &["2 files of images to train on", "1 and at most 1"]);
}

/// `n` records with these label bytes before planes of 10 + i, 20 + i and 30 + i.
pub(super) fn cifar(labels: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (i, labels) in labels.iter().enumerate() {
        bytes.extend_from_slice(labels);
        for plane in [10, 20, 30] {
            bytes.extend([plane + i as u8; 1024]);
        }
    }
    bytes
}

#[test]
fn cifar_10_and_100_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let ten = folder.path();
    write(ten, "data_batch_1.bin", cifar(&[&[3], &[9]]));
    write(ten, "data_batch_2.bin", cifar(&[&[0]]));
    write(ten, "test_batch.bin", cifar(&[&[1]]));
    let images = read(ten, &reading(32, 3)).unwrap();
    assert_eq!(
        images.items.names,
        ["data_batch_1/0", "data_batch_1/1", "data_batch_2/0", "test_batch/0"]
    );
    assert_eq!(
        (images.items.labels.join(" "), images.items.held_out.clone()),
        ("3 9 0 1".to_owned(), 3..4)
    );
    assert_eq!(images.scaled(1).unwrap().pixels[..6], [11, 21, 31, 11, 21, 31]);
    assert_same(&images, &read(ten, &Reading { memory: 3073, ..reading(32, 3) }).unwrap());

    write(ten, "batches.meta.txt", "plane\ncar\nbird\n");
    refused(ten, &["batches.meta.txt", "3 classes", "10"]);
    let names: Vec<String> = (0..10).map(|i| format!("class {i}")).collect();
    write(ten, "batches.meta.txt", names.join("\n") + "\n\n");
    assert_eq!(read(ten, &reading(32, 3)).unwrap().items.labels[1], "class 9");

    // One of the files alone.
    let alone = read(&ten.join("data_batch_1.bin"), &reading(32, 3)).unwrap();
    assert_eq!(
        (alone.items.labels.join(","), alone.items.held_out.len()),
        ("class 3,class 9".into(), 0)
    );

    let folder = tempfile::tempdir().unwrap();
    let hundred = folder.path();
    write(hundred, "train.bin", cifar(&[&[19, 99], &[0, 5]]));
    write(hundred, "test.bin", cifar(&[&[1, 2]]));
    let images = read(hundred, &reading(8, 1)).unwrap();
    assert_eq!(
        (images.items.labels.join(" "), images.items.held_out.clone()),
        ("99 5 2".to_owned(), 2..3)
    );
    // In a folder of images they are other files.
    write(hundred, "x/image.png", png(&picture(0, 4, 4)));
    assert_eq!(read(hundred, &reading(8, 1)).unwrap().items.names, ["x/image.png"]);
}

#[test]
fn cifar_files_for_python_are_named() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["data_batch_1", "test_batch", "batches.meta"] {
        write(folder.path(), name, b"\x80\x04");
    }
    let needed = ["data_batch_1", "for Python", "cifar-10-binary.tar.gz"];
    refused(folder.path(), &needed);
    refused(&folder.path().join("data_batch_1"), &needed);
}

#[test]
fn damaged_cifar_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write(folder, "test_batch.bin", cifar(&[&[1]]));
    refused(folder, &["none to train on", "data_batch_1.bin is needed"]);
    let whole = cifar(&[&[1], &[2]]);
    write(folder, "data_batch_1.bin", &whole[..whole.len() - 1]);
    refused(folder, &["data_batch_1.bin", "6145 bytes", "multiple of 3073"]);
    write(folder, "data_batch_1.bin", "");
    refused(folder, &["data_batch_1.bin", "0 bytes"]);
    write(folder, "data_batch_1.bin", cifar(&[&[1], &[10]]));
    refused(folder, &["data_batch_1.bin", "image 1 has label 10", "0 to 9"]);
}

#[test]
fn arrays_of_every_layout_are_the_same_images() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let value = |i: usize, y: usize, x: usize, c: usize| (i * 60 + y * 12 + x * 3 + c) as u8;
    let last = Array4::from_shape_fn((2, 5, 4, 3), |(i, y, x, c)| value(i, y, x, c));
    let first = Array4::from_shape_fn((2, 3, 5, 4), |(i, c, y, x)| value(i, y, x, c));
    let numbers = last.mapv(|v| f32::from(v) / 255.0);
    write_npy(at("wide.npy"), &last.mapv(|v| f64::from(v) / 255.0)).unwrap();
    write_npy(at("last.npy"), &last).unwrap();
    write_npy(at("first.npy"), &first).unwrap();
    write_npy(at("numbers.npy"), &numbers).unwrap();
    write_npy(at("grey.npy"), &Array3::from_shape_fn((2, 5, 4), |(i, y, x)| value(i, y, x, 0)))
        .unwrap();
    let images = read(&at("last.npy"), &reading(4, 3)).unwrap();
    assert_eq!(
        (images.items.names.join(" "), images.items.labels.join(",")),
        ("last/0 last/1".into(), ",".into())
    );
    assert_eq!(images.original(1).unwrap().pixels, (60..120).collect::<Vec<u8>>());
    for name in ["first.npy", "numbers.npy", "wide.npy"] {
        for memory in [MEMORY, 0] {
            let mut other = read(&at(name), &Reading { memory, ..reading(4, 3) }).unwrap();
            other.items.names = images.items.names.clone();
            assert_same(&images, &other);
        }
    }
    let grey = read(&at("grey.npy"), &reading(5, 1)).unwrap();
    assert_eq!(grey.original(0).unwrap().pixels[..5], [0, 3, 6, 9, 12]);

    // As tables of pixels come.
    let square = Array3::from_shape_fn((2, 5, 5), |(i, y, x)| value(i, y, x, 0));
    write_npy(at("square.npy"), &square).unwrap();
    write_npy(at("flat.npy"), &square.to_shape((2, 25)).unwrap().to_owned()).unwrap();
    let [square, mut flat] =
        ["square.npy", "flat.npy"].map(|name| read(&at(name), &reading(5, 1)).unwrap());
    flat.items.names = square.items.names.clone();
    assert_same(&square, &flat);

    write_npy(at("labels.npy"), &Array1::from(vec![-3i64, 12])).unwrap();
    assert_eq!(read(&at("last.npy"), &reading(4, 3)).unwrap().items.labels, ["-3", "12"]);
    write_npy(at("labels.npy"), &Array1::from(vec![3u8, 200])).unwrap();
    assert_eq!(read(&at("last.npy"), &reading(4, 3)).unwrap().items.labels, ["3", "200"]);
    write_npy(at("labels.npy"), &Array1::from(vec![3u8])).unwrap();
    refused(&at("last.npy"), &["labels.npy", "[1]", "2 rows", "[2] is needed"]);
    write_npy(at("labels.npy"), &Array1::from(vec![0.5f32, 1.0])).unwrap();
    refused(&at("last.npy"), &["labels.npy", "<f4", "integers are needed"]);
}

#[test]
fn arrays_that_are_no_images_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.npy");
    let shaped = |shape: &[usize], parts: &[&str]| {
        write_npy(&path, &Array::<u8, _>::zeros(shape)).unwrap();
        refused(&path, &[&["x.npy", &format!("{shape:?}")], parts].concat());
    };
    shaped(&[2, 3, 5, 3], &["either side may be the channels"]);
    shaped(&[9, 9, 3], &["one image as well as many"]);
    shaped(&[2, 5, 5, 4], &["not that of images"]);
    shaped(&[25], &["not that of images"]);
    shaped(&[0, 5, 5], &["holds no number"]);
    shaped(&[4, 26], &["no square"]);
    shaped(&[4, 3 * 49], &["reshape(-1, 3, 7, 7)", "reshape(-1, 7, 7, 3)"]);
    write_npy(&path, &Array3::<i64>::zeros((2, 4, 4))).unwrap();
    refused(&path, &["<i8", "x.astype(numpy.uint8)"]);
    let wrongs = [(1.5, "x.astype(numpy.uint8)"), (-0.5, "(x + 1) / 2"), (f64::NAN, "0 and 1")];
    for (wrong, save) in wrongs {
        let mut array = Array3::<f64>::zeros((3, 4, 4));
        array[[2, 1, 1]] = wrong;
        write_npy(&path, &array.mapv(|x| x as f32)).unwrap();
        refused(&path, &["image 2", &format!("{wrong}"), "between 0 and 1", save]);
        write_npy(&path, &array).unwrap();
        refused(&path, &["image 2", &format!("{wrong}"), "between 0 and 1", save]);
    }
    use ndarray::ShapeBuilder;
    write_npy(&path, &Array3::<u8>::zeros((2, 4, 4).f())).unwrap();
    refused(&path, &["Fortran", "ascontiguousarray"]);

    write_npy(&path, &Array3::<u8>::zeros((2, 4, 4))).unwrap();
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    refused(&path, &["2 images of 4×4", "need 32 bytes", "31 are there"]);
    std::fs::write(&path, [&whole[..], &[0]].concat()).unwrap();
    refused(&path, &["more follow"]);
    std::fs::write(&path, &whole[..20]).unwrap();
    refused(&path, &["ends within its header"]);
    std::fs::write(&path, "no array of NumPy").unwrap();
    refused(&path, &["no .npy file"]);
    let header = b"\x93NUMPY\x02\x00\xff\xff\xff\xff{";
    std::fs::write(&path, header).unwrap();
    refused(&path, &["header is 4294967295 bytes"]);
    let headed = |header: &str, parts: &[&str]| {
        let length = (header.len() as u16).to_le_bytes();
        let file = [&b"\x93NUMPY\x01\x00"[..], &length, header.as_bytes()].concat();
        std::fs::write(&path, file).unwrap();
        refused(&path, parts);
    };
    headed("{'a': 1}  ", &["its header is not NumPy's", "{'a': 1}"]);
    // Brackets that a parser of nested literals would be lost in.
    let nested = format!("{{'descr': {}{}, 'shape': (2, 4, 4)}}", "[".repeat(99), "]".repeat(99));
    headed(&nested, &["its header is not NumPy's"]);
    // Sides whose product no number holds.
    let side = u64::MAX;
    let huge =
        format!("{{'descr': '|u1', 'fortran_order': False, 'shape': ({side}, {side}, {side})}}");
    headed(&huge, &[&format!("{side} images"), "but 0 are there"]);
}
