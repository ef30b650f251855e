//! Digits, folders and zip files.

use super::*;
use image::imageops::FilterType;
use std::fs::File;
use std::io::Write;
use zip::write::SimpleFileOptions;

#[test]
fn the_digits_are_the_file_to_the_last_bit() {
    let images = Images::read(DIGITS, &ImageSettings::default().reading(DIGITS, false)).unwrap();
    let mut text = String::new();
    let file = &include_bytes!("../sources/digits.csv.gz")[..];
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(file), &mut text).unwrap();
    assert_eq!(images.len(), 1797);
    for (i, line) in text.lines().enumerate() {
        let numbers: Vec<f32> = line.split(',').map(|x| x.parse().unwrap()).collect();
        let (label, pixels) = numbers.split_last().unwrap();
        let pixels: Vec<f32> = pixels.iter().map(|p| p / 16.0).collect();
        assert_eq!(images.image(i).unwrap(), pixels);
        assert_eq!(
            (&images.items.names[i], &images.items.labels[i]),
            (&format!("digits/{i:04}"), &label.to_string())
        );
    }
    let split = Split::new(&images.items, 0.2);
    assert_eq!((split.train.len(), split.test.len()), (1437, 360));
    assert!(Images::read("digits", &reading(8, 3)).is_err());
}

#[test]
fn a_folder_is_read_as_it_always_was() {
    let folder = small_folder();
    write(folder.path(), "a/truncated.png", &png(&picture(1, 40, 40))[..60]);
    write(folder.path(), "a/foreign.jpg", "no image");
    write(folder.path(), "a/notes.txt", "no image either");
    for channels in [1, 3] {
        let images = read(folder.path(), &reading(4, channels)).unwrap();
        assert_eq!((images.len(), images.items.skipped.len()), (10, 2));
        assert_eq!(images.items.names[..4], ["a/0.png", "a/1.png", "a/2.png", "a-b/0.png"]);
        assert_eq!((&*images.items.labels[5], &*images.items.labels[9]), ("", "c/d"));
        for (i, name) in images.items.names.iter().enumerate() {
            let image = image::open(folder.path().join(name)).unwrap();
            let image = image.resize_to_fill(4, 4, FilterType::Triangle);
            let expected: Vec<f32> = match channels {
                1 => image.into_luma8().into_raw().iter().map(|&p| f32::from(p) / 255.0).collect(),
                _ => {
                    let pixels = image.into_rgb8().into_raw();
                    let plane = |c| pixels.iter().skip(c).step_by(3);
                    (0..3).flat_map(plane).map(|&p| f32::from(p) / 255.0).collect()
                }
            };
            assert_eq!(images.image(i).unwrap(), expected, "{name}");
        }
    }
}

#[test]
fn originals_keep_their_size() {
    let folder = small_folder();
    let originals = Reading { originals: true, ..reading(4, 3) };
    let images = read(folder.path(), &originals).unwrap();
    let alone = images.original(5).unwrap();
    assert_eq!((alone.width, alone.height, alone.channels), (9, 5, 3));
    assert_eq!(alone.pixels, picture(0, 9, 5).into_rgb8().into_raw());
}

#[test]
fn the_memory_budget_decides_nothing_but_time() {
    let folder = small_folder();
    write(folder.path(), "a/foreign.jpg", "no image");
    let all = read(folder.path(), &Reading { originals: true, ..reading(4, 3) }).unwrap();
    assert_eq!(all.in_memory(), 10);
    for (memory, kept) in [(0, 0), (3 * 48, 3)] {
        let few = read(folder.path(), &Reading { memory, ..reading(4, 3) }).unwrap();
        assert_eq!((few.in_memory(), few.items.skipped.len()), (kept, 1));
        assert_same(&all, &few);
    }
    // What is not in memory cannot outlive its file, and says so.
    let few = read(folder.path(), &Reading { memory: 0, ..reading(4, 3) }).unwrap();
    std::fs::remove_file(folder.path().join("a/0.png")).unwrap();
    let said = few.pixels(&[3, 0]).unwrap_err().to_string();
    assert!(said.contains("0.png") && said.contains("not now"), "{said}");
    assert!(all.pixels(&[0]).is_ok());
}

#[test]
fn folders_and_files_without_images_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    refused(&data, &["does not exist", "a folder of images", ".npy"]);
    std::fs::create_dir(&data).unwrap();
    refused(&data, &["has no images", "it is empty"]);
    write(&data, "notes.txt", "no image");
    refused(&data, &["1 other files"]);
    write(&data, "foreign.png", "no image");
    refused(&data, &["none of the 1 images", "foreign.png"]);
    refused(&data.join("notes.txt"), &["notes.txt is no folder", "--data takes"]);
}

/// A zip file of these entries, some packed, some stored.
pub(super) fn zip_of(path: &Path, files: &[(String, Vec<u8>)]) {
    let mut zip = zip::ZipWriter::new(File::create(path).unwrap());
    for (i, (name, bytes)) in files.iter().enumerate() {
        let method = [zip::CompressionMethod::Deflated, zip::CompressionMethod::Stored][i % 2];
        let options = SimpleFileOptions::default().compression_method(method);
        zip.start_file(name.clone(), options).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap();
}

#[test]
fn a_zip_file_is_the_folder_it_holds() {
    let folder = small_folder();
    let path = folder.path().with_extension("ZIP");
    let mut files = small();
    files.reverse();
    files.push(("__MACOSX/a/._0.png".into(), b"resource fork".into()));
    files.push(("a/.hidden.png".into(), b"hidden".into()));
    files.push((".git/x.png".into(), b"hidden".into()));
    files.push(("readme.txt".into(), b"text".into()));
    zip_of(&path, &files);
    let unpacked = read(folder.path(), &reading(5, 3)).unwrap();
    for memory in [MEMORY, 0] {
        let zipped = read(&path, &Reading { memory, ..reading(5, 3) }).unwrap();
        assert_same(&unpacked, &zipped);
        assert!(zipped.items.skipped.is_empty());
    }
    std::fs::remove_file(path).unwrap();
}

/// Where the data of an entry begins, and the places of its general purpose flags.
fn places(bytes: &[u8], name: &str) -> (usize, Vec<usize>) {
    let at: Vec<usize> =
        (0..bytes.len()).filter(|&i| bytes[i..].starts_with(name.as_bytes())).collect();
    assert_eq!(at.len(), 2, "once before the data and once in the directory");
    (at[0] + name.len(), vec![at[0] - 30 + 6, at[1] - 46 + 8])
}

#[test]
fn entries_that_cannot_be_read_are_skipped_named_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.zip");
    let image = |seed| png(&picture(seed, 8, 8));
    let mut files = vec![("x/bomb.png".to_owned(), vec![0; sources::LARGEST as usize + 1])];
    for name in ["x/whole.png", "x/secret.png", "x/stored.png", "x/packed.png", "x/foreign.png"] {
        files.push((name.to_owned(), image(files.len())));
    }
    files[5].1 = b"no image".into();
    zip_of(&path, &files);
    let mut bytes = std::fs::read(&path).unwrap();
    for flags in places(&bytes, "x/secret.png").1 {
        bytes[flags] |= 1;
    }
    for name in ["x/packed.png", "x/stored.png"] {
        let data = places(&bytes, name).0;
        bytes[data + 30] ^= 0xff;
    }
    // The bomb's directory entry says that it unpacks to 100 bytes.
    let directory = places(&bytes, "x/bomb.png").1[1] - 8;
    let mut liar = bytes.clone();
    liar[directory + 24..directory + 28].copy_from_slice(&100u32.to_le_bytes());
    for bytes in [bytes, liar] {
        std::fs::write(&path, bytes).unwrap();
        let images = read(&path, &reading(4, 1)).unwrap();
        assert_eq!(images.items.names, ["x/whole.png"]);
        let skipped: Vec<_> =
            images.items.skipped.iter().map(|s| (s.path.clone(), &*s.reason)).collect();
        let of = |name: &str| {
            let reason = skipped.iter().find(|s| s.0 == path.join(name)).map(|s| s.1);
            reason.unwrap_or_else(|| panic!("{name} is not in {skipped:?}"))
        };
        assert_eq!(skipped.len(), 5);
        assert!(of("x/secret.png").contains("encrypted"));
        let bomb = of("x/bomb.png");
        assert!(bomb.contains("64 MiB") || bomb.contains("larger than its declared"), "{bomb}");
        for name in ["x/packed.png", "x/stored.png", "x/foreign.png"] {
            assert!(!of(name).is_empty());
        }
    }
}

#[test]
fn what_is_no_zip_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.zip");
    zip_of(&path, &small());
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    refused(&path, &["x.zip", "cannot be read as a zip file"]);
    std::fs::write(&path, "no zip file").unwrap();
    refused(&path, &["x.zip", "cannot be read as a zip file"]);
    zip_of(&path, &[("readme.txt".into(), b"text".into())]);
    refused(&path, &["x.zip has no images", "1 other files"]);
    zip_of(&path, &[]);
    refused(&path, &["x.zip has no images", "it is empty"]);
}

#[allow(clippy::print_stdout)]
#[test]
fn omniglot_is_read_from_its_zip_file() {
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data");
    let data = std::env::var("KINFOLD_DATA").map_or(beside.into(), PathBuf::from);
    let path = data.join("omniglot/images_background_small1.zip");
    if !path.exists() {
        println!("skipped: there is no {}", path.display());
        return;
    }
    let images = read(&path, &reading(28, 1)).unwrap();
    assert_eq!((images.len(), images.items.classes().0.len()), (2720, 136));
    assert!(images.items.skipped.is_empty() && images.in_memory() == 2720);
    assert_eq!(images.items.names[0], "images_background_small1/Balinese/character01/0108_01.png");
    assert_eq!(images.items.labels[0], "images_background_small1/Balinese/character01");
    let original = images.original(2719).unwrap();
    assert_eq!((original.width, original.height), (105, 105));

    let split = Split { train: (0..2720).collect(), test: vec![], ..Split::default() };
    let settings = PairSettings {
        of: Some(PairSource::Folder),
        expand: Expansion::Rotations,
        ..Default::default()
    };
    let pairs = Pairs::new(&images.items, &split, &settings).unwrap();
    assert_eq!((pairs.classes(), pairs.len()), (Some(544), 4 * 2720));
    assert_eq!(pairs.batches(256, 0, 0).len(), 42);
}

#[test]
fn what_is_transparent_shows_the_background() {
    let folder = tempfile::tempdir().unwrap();
    // Black ink that only its opacity shows.
    let ink = image::RgbaImage::from_fn(4, 4, |x, _| image::Rgba([0, 0, 0, 85 * x as u8]));
    write(folder.path(), "ink.png", png(&ink.into()));
    let grey = image::GrayAlphaImage::from_fn(4, 4, |x, _| image::LumaA([100, 85 * x as u8]));
    write(folder.path(), "grey.png", png(&grey.into()));
    let row = |background, channels| {
        let images = read(folder.path(), &Reading { background, ..reading(4, channels) }).unwrap();
        let pixels = |i| images.original(i).unwrap().pixels[..4 * channels].to_vec();
        [pixels(1), pixels(0)]
    };
    assert_eq!(row(255, 1), [[255, 170, 85, 0], [255, 203, 152, 100]]);
    assert_eq!(row(0, 1), [[0, 0, 0, 0], [0, 33, 67, 100]]);
    assert_eq!(row(255, 3)[0][..6], [255, 255, 255, 170, 170, 170]);
    assert_eq!(ImageSettings::default().reading("x", false).background, 255);
}

#[test]
fn a_photo_stands_upright_as_its_camera_says() {
    let folder = tempfile::tempdir().unwrap();
    // Light above, dark below.
    let picture =
        image::GrayImage::from_fn(16, 16, |_, y| image::Luma([if y < 8 { 250 } else { 5 }]));
    let mut plain = Cursor::new(Vec::new());
    DynamicImage::from(picture).write_to(&mut plain, ImageFormat::Jpeg).unwrap();
    let plain = plain.into_inner();
    // EXIF: one entry, the orientation, of 6: to be turned clockwise by a quarter.
    let mut exif = b"\xff\xe1\x00\x22Exif\0\0MM\x00\x2a\x00\x00\x00\x08\x00\x01".to_vec();
    exif.extend(b"\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00\x00\x00\x00\x00");
    write(folder.path(), "turned.jpg", [&plain[..2], &exif, &plain[2..]].concat());
    write(folder.path(), "plain.jpg", plain);
    let images = read(folder.path(), &reading(16, 1)).unwrap();
    let [plain, turned] = [0, 1].map(|i| images.original(i).unwrap());
    assert_eq!(turned, plain.clone().posed(1));
    assert_ne!(turned, plain);
}

#[test]
fn the_first_frame_of_a_gif_and_a_tiff_are_read() {
    let folder = tempfile::tempdir().unwrap();
    for (name, format) in [("x.gif", ImageFormat::Gif), ("y.tif", ImageFormat::Tiff)] {
        let mut bytes = Cursor::new(Vec::new());
        let picture = picture(1, 6, 6).into_rgb8();
        DynamicImage::from(picture).into_rgba8().write_to(&mut bytes, format).unwrap();
        write(folder.path(), name, bytes.into_inner());
    }
    let images = read(folder.path(), &reading(6, 3)).unwrap();
    let expected = picture(1, 6, 6).into_rgb8().into_raw();
    assert_eq!(images.original(1).unwrap().pixels, expected);
    // GIF has 256 colours, which are enough for 36 pixels.
    let gif = images.original(0).unwrap();
    assert!(gif.pixels.iter().zip(&expected).all(|(a, b)| a.abs_diff(*b) < 8));
}

#[test]
fn other_contents_have_another_checksum() {
    let folder = small_folder();
    let checksum = || read(folder.path(), &reading(4, 3)).unwrap().checksum();
    let before = checksum();
    assert_eq!(before, checksum());
    write(folder.path(), "a/1.png", png(&picture(99, 7, 7)));
    assert_ne!(before, checksum());
}

#[cfg(unix)]
#[test]
fn links_that_lead_nowhere_or_around_are_skipped() {
    use std::os::unix::fs::symlink;
    let folder = small_folder();
    symlink("gone.png", folder.path().join("a/dangling.png")).unwrap();
    symlink("..", folder.path().join("a/around")).unwrap();
    let images = read(folder.path(), &reading(4, 3)).unwrap();
    assert_eq!(images.len(), 10);
    let mut skipped: Vec<String> = images
        .items
        .skipped
        .iter()
        .map(|file| format!("{}: {}", file.path.file_name().unwrap().display(), file.reason))
        .collect();
    skipped.sort();
    assert_eq!(skipped.len(), 2, "{skipped:?}");
    assert!(skipped[0].starts_with("around: it leads around to"), "{skipped:?}");
    assert!(skipped[1].starts_with("dangling.png: "), "{skipped:?}");
}
