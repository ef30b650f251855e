//! However a file is damaged, it is read or refused by name, and nothing panics.

use super::plain::{cifar, gz, mnist};
use super::*;
use crate::random::{Purpose, Random};

/// Reads a file cut short everywhere and changed anywhere; what is refused names the file or folder.
fn damage(data: &Path, file: &Path) {
    let whole = std::fs::read(file).unwrap();
    assert!(read(data, &reading(4, 1)).is_ok());
    let named = data.file_name().unwrap().to_str().unwrap();
    let mut random = Random::new(1, Purpose::Split);
    let check = |bytes: &[u8]| {
        std::fs::write(file, bytes).unwrap();
        for memory in [MEMORY, 0] {
            match read(data, &Reading { memory, originals: true, ..reading(4, 1) }) {
                Ok(images) => {
                    let rows: Vec<usize> = (0..images.len()).collect();
                    assert!(images.pixels(&rows).is_ok());
                }
                Err(error) => assert!(error.to_string().contains(named), "{error}"),
            }
        }
    };
    let step = whole.len().div_ceil(150);
    (0..whole.len()).step_by(step).for_each(|length| check(&whole[..length]));
    for _ in 0..150 {
        let mut bytes = whole.clone();
        // Headers are where damage does most.
        let within = if random.below(2) == 0 { bytes.len().min(128) } else { bytes.len() };
        bytes[random.below(within)] = random.below(256) as u8;
        check(&bytes);
    }
}

#[test]
fn no_damage_panics() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let [images, labels] = mnist(6, 0);
    write(folder, "idx/train-labels-idx1-ubyte", &labels);
    let path = write(folder, "idx/train-images-idx3-ubyte", &images);
    damage(&path, &path);
    let path = write(folder, "packed/train-images-idx3-ubyte.gz", gz(&images));
    let labels = write(folder, "packed/train-labels-idx1-ubyte.gz", gz(&labels));
    // Without a budget nothing packed is read; half of the checks are of that.
    damage(&path, &path);
    write(folder, "packed/train-images-idx3-ubyte.gz", gz(&images));
    damage(&folder.join("packed"), &labels);

    let path = write(folder, "cifar/data_batch_1.bin", cifar(&[&[1], &[2]]));
    damage(&folder.join("cifar"), &path);
    let path = folder.join("x.npy");
    ndarray_npy::write_npy(&path, &ndarray::Array3::<f32>::ones((2, 4, 5))).unwrap();
    damage(&path, &path);
    let path = folder.join("x.zip");
    encoded::zip_of(&path, &small());
    damage(&path, &path);

    write(folder, "a.png", png(&picture(1, 5, 5)));
    write(folder, "b.png", png(&picture(2, 5, 5)));
    let path = write(folder, "x.csv", "a,b,id\n\"a.png\",b.png,1\nb.png,a.png,2\n");
    damage(&path, &path);
    let path = write(folder, "x.jsonl", r#"{"a": "a.png", "b": "b.png", "id": 1}"#);
    damage(&path, &path);
}
