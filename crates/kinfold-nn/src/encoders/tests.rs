//! Encoders beside PyTorch's, and what can go wrong with their settings and weights.

use super::settings::{EncoderName, EncoderSettings};
use super::weights::{self, Weights};
use super::{ImageShape, Model};
use crate::Error;
use burn::optim::GradientsParams;
use burn::store::bridge;
use burn::tensor::{Device, Tensor, TensorData};
use serde::Deserialize;
use std::path::{Path, PathBuf};

const GOLDEN: &str = include_str!("../../tests/golden/encoders.json");

#[derive(Deserialize)]
struct Golden {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    settings: EncoderSettings,
    size: usize,
    channels: usize,
    /// Every `step`-th number of each row is in the file.
    step: usize,
    eval: Vec<f32>,
    train: Vec<f32>,
}

/// The same formula as in `tests/golden/encoders.py`: a number of [−1, 1) for each index.
fn noise(name: &str, count: usize) -> impl Iterator<Item = f64> {
    let salt =
        name.bytes().fold(0u32, |salt, byte| salt.wrapping_mul(31).wrapping_add(u32::from(byte)));
    (0..count as u32).map(move |i| {
        let mut h = i.wrapping_mul(40503).wrapping_add(salt);
        for (factor, shift) in [(73_244_475u32, 16), (73_244_475, 15)] {
            h = (h ^ (h >> shift)).wrapping_mul(factor);
        }
        f64::from(h ^ (h >> 16)) / f64::from(1u32 << 31) - 1.0
    })
}

/// A weight by that formula, in PyTorch's layout.
fn weight(name: &str, shape: &[usize]) -> Vec<f32> {
    let short = name.strip_prefix("encoder.").unwrap_or(name);
    let inner: usize = shape[1..].iter().product();
    let scale = (3.0 / inner as f64).sqrt();
    let of = |u: f64| match shape.len() {
        1 if short.ends_with("running_var") => 1.0 + 0.5 * u,
        1 if short.ends_with("bn3.weight") => 0.3 + 0.1 * u,
        1 if short.ends_with("weight") => 1.0 + 0.2 * u,
        1 => 0.1 * u,
        _ => u * scale,
    };
    noise(short, shape.iter().product()).map(|u| of(u) as f32).collect()
}

/// The model with every weight by that formula.
fn formula(model: Model) -> Result<Model, String> {
    let weights: Weights = weights::weights_of(&model)
        .into_iter()
        .map(|(name, own)| {
            let shape: Vec<usize> = own.shape.iter().copied().collect();
            let data = TensorData::new(weight(&name, &shape), shape);
            (name.clone(), bridge::from_data(data, name, None))
        })
        .collect();
    weights::place(model, weights, "")
}

fn images(ImageShape { size, channels }: ImageShape, rows: usize, device: &Device) -> Tensor<4> {
    let pixels: Vec<f32> =
        noise("pixels", rows * channels * size * size).map(|u| (u * 0.5 + 0.5) as f32).collect();
    Tensor::from_data(TensorData::new(pixels, [rows, channels, size, size]), device)
}

fn numbers<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    x.into_data().try_to_vec().expect("f32")
}

fn shape(size: usize, channels: usize) -> ImageShape {
    ImageShape { size, channels }
}

fn random(settings: &EncoderSettings, shape: ImageShape, seed: u64, device: &Device) -> Model {
    Model::random(settings, shape, seed, device).expect("settings that can be used")
}

#[test]
fn encoders_agree_with_pytorch() -> Result<(), Box<dyn std::error::Error>> {
    let golden: Golden = serde_json::from_str(GOLDEN)?;
    for Case { settings, size, channels, step, eval, train } in golden.cases {
        let shape = shape(size, channels);
        settings.check(size)?;
        for (device, theirs) in [(Device::flex(), eval), (Device::flex().autodiff(), train)] {
            let model = formula(random(&settings, shape, 0, &device))?;
            let out = model.embed(images(shape, 3, &device));
            assert_eq!(out.dims(), [3, settings.embedding()]);
            let ours: Vec<f32> = numbers(out)
                .chunks(settings.embedding())
                .flat_map(|row| row.iter().copied().step_by(step))
                .collect();
            assert_eq!(ours.len(), theirs.len());
            let gap = ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(gap < 1e-4, "{settings:?} on {device:?}: {gap}");
        }
    }
    Ok(())
}

fn named(name: EncoderName) -> EncoderSettings {
    EncoderSettings::named(name)
}

/// Each encoder, small where it can be.
fn small() -> Vec<EncoderSettings> {
    let texts = [
        "widths = [4, 6]\nembedding = 5\nprojection = 3",
        "name = \"mlp\"\nwidths = [7]\nembedding = 5\nprojector = \"none\"",
        "name = \"resnet18\"",
        "name = \"vit\"\npatch = 2\nwidth = 8\ndepth = 2\nheads = 2",
    ];
    texts.iter().map(|text| toml::from_str(text).expect("settings")).collect()
}

#[test]
fn settings_survive_a_file() {
    use EncoderName::{ConvNet, Mlp, ResNet18, ResNet50, Vit};
    let all = [ConvNet, Mlp, ResNet18, ResNet50, Vit].map(named);
    for settings in all.into_iter().chain(small()) {
        let decided = settings.decided(32);
        let text = toml::to_string(&decided).expect("toml");
        assert_eq!(toml::from_str::<EncoderSettings>(&text).expect("toml"), decided, "{text}");
        // Nothing is left to decide, and nothing decided is refused.
        assert_eq!(decided.decided(512), decided);
        decided.check(32).expect("what was decided");
        assert!(text.contains(&format!("name = \"{}\"", settings.name)), "{text}");
    }
    // A run of before there was a choice.
    let old = "widths = [48, 96, 192]\nembedding = 128\nprojection = 64";
    let old: EncoderSettings = toml::from_str(old).expect("toml");
    assert_eq!(old.decided(8), EncoderSettings::default().decided(8));
}

#[test]
fn defaults_follow_the_encoder_and_the_size() {
    let text = |name, size| toml::to_string(&named(name).decided(size)).expect("toml");
    assert_eq!(
        text(EncoderName::ConvNet, 8),
        "name = \"convnet\"\nwidths = [48, 96, 192]\nkernels = [3, 3, 3]\nstrides = [1, 2, 2]\n\
         embedding = 128\nprojector = \"linear\"\nprojection = 64\n"
    );
    for (size, stem) in [(64, "small"), (65, "imagenet")] {
        let expected = format!(
            "name = \"resnet50\"\nstem = \"{stem}\"\nprojector = \"mlp\"\nprojection = 128\n"
        );
        assert_eq!(text(EncoderName::ResNet50, size), expected);
    }
    assert!(text(EncoderName::Vit, 32).contains("patch = 4\nwidth = 192\ndepth = 6\nheads = 3"));
    assert!(text(EncoderName::Vit, 224).contains("patch = 16"));
}

#[test]
fn settings_that_cannot_be_are_refused_by_name() {
    for (text, said) in [
        ("name = \"resnet18\"\nwidths = [4]", "widths is a setting of convnet, mlp"),
        ("name = \"resnet50\"\nembedding = 4", "embedding is a setting of convnet, mlp"),
        ("name = \"mlp\"\nkernels = [3, 3]", "kernels is a setting of convnet, but"),
        ("name = \"mlp\"\nstrides = [1, 1]", "the encoder is mlp"),
        ("stem = \"small\"", "stem is a setting of resnet18, resnet50, but the encoder is convnet"),
        ("name = \"resnet18\"\npatch = 4", "patch is a setting of vit"),
        ("width = 4", "width is a setting of vit"),
        ("depth = 4", "depth is a setting of vit"),
        ("heads = 4", "heads is a setting of vit"),
        ("projector = \"none\"\nprojection = 4", "projection is given, but there is no projector"),
        ("widths = []", "widths is []"),
        ("name = \"mlp\"\nwidths = [4, 0]", "widths is [4, 0]"),
        ("widths = [4, 4]\nkernels = [3]", "kernels is [3], but it must have one number for each"),
        ("widths = [4, 4]\nstrides = [1, 2, 2]", "strides is [1, 2, 2]"),
        ("widths = [4]\nkernels = [4]", "kernels is [4], but each must be odd"),
        ("widths = [4]\nstrides = [0]", "strides is 0"),
        ("embedding = 0", "embedding is 0"),
        ("projection = 0", "projection is 0"),
        ("name = \"vit\"\nheads = 0", "heads is 0"),
        ("name = \"vit\"\npatch = 0", "patch is 0"),
        ("name = \"vit\"\npatch = 5", "image size is 32, but it must be a multiple of the vit's"),
        ("name = \"vit\"\nwidth = 8\nheads = 3", "width is 8, but it must be a multiple of"),
    ] {
        let settings: EncoderSettings = toml::from_str(text).expect(text);
        let refusal = settings.check(32).expect_err(text);
        assert!(matches!(refusal, Error::Setting(_)), "{text}: {refusal}");
        assert!(refusal.to_string().contains(said), "{text}: {refusal}");
    }
    for text in ["name = \"resnet34\"", "stem = \"large\"", "projector = \"deep\"", "size = 4"] {
        assert!(toml::from_str::<EncoderSettings>(text).is_err(), "{text}");
    }
}

#[test]
fn weights_follow_from_the_seed() -> Result<(), Error> {
    let device = Device::flex();
    for settings in small() {
        // In whatever order they are used first: another model is begun, and the last layers go first.
        let bytes = |seed| {
            let model = random(&settings, shape(8, 1), seed, &device);
            let _other = random(&settings, shape(8, 1), seed + 9, &device).to_bytes()?;
            let x = Tensor::ones([2, settings.embedding()], &device);
            let _last = model.projector.as_ref().map(|projector| projector.forward(x));
            model.to_bytes()
        };
        assert!(bytes(3)? == bytes(3)?, "{settings:?}");
        assert!(bytes(3)? != bytes(4)?, "{settings:?}");
    }
    Ok(())
}

#[test]
fn embeddings_have_their_dimension_at_every_size() -> Result<(), Error> {
    let device = Device::flex();
    for size in [4, 5, 7, 9, 14, 33] {
        for mut settings in small() {
            settings.patch = settings.patch.map(|_| if size % 2 == 0 { 2 } else { size });
            settings.check(size)?;
            let model = random(&settings, shape(size, 3), 0, &device);
            let out = model.embed(images(shape(size, 3), 2, &device));
            assert_eq!(out.dims(), [2, settings.embedding()], "{settings:?} at {size}");
            let projected = model.project(images(shape(size, 3), 2, &device)).dims()[1];
            let decided = settings.decided(size);
            assert_eq!(projected, decided.projection.unwrap_or(settings.embedding()));
        }
    }
    Ok(())
}

/// ResNet's convolutions as torchvision draws them: normal, by what they feed; batch norm at 1 and 0.
#[test]
fn a_resnet_begins_as_torchvisions() {
    let model = random(&named(EncoderName::ResNet18), shape(32, 3), 0, &Device::flex());
    for (name, weight) in weights::weights_of(&model) {
        if name.starts_with("projector.") {
            continue;
        }
        let shape: Vec<usize> = weight.shape.iter().copied().collect();
        let data = bridge::to_data(&weight).expect("numbers").try_to_vec::<f32>().expect("f32");
        match shape[..] {
            [out, _, k, _] => {
                let square = data.iter().map(|x| f64::from(x * x)).sum::<f64>();
                let spread = (square / data.len() as f64).sqrt();
                let expected = (2.0 / (out * k * k) as f64).sqrt();
                assert!((spread / expected - 1.0).abs() < 0.05, "{name}: {spread} {expected}");
            }
            _ if name.ends_with("weight") || name.ends_with("var") => {
                assert!(data.iter().all(|&x| x == 1.0), "{name}");
            }
            _ => assert!(data.iter().all(|&x| x == 0.0), "{name}"),
        }
    }
}

#[test]
fn the_gradient_reaches_every_weight() {
    let device = Device::flex().autodiff();
    for settings in small() {
        let model = random(&settings, shape(8, 1), 0, &device);
        let loss = model.project(images(shape(8, 1), 4, &device)).powf_scalar(3.0).sum();
        let gradients = GradientsParams::from_grads(loss.backward(), &model);
        let weights = weights::weights_of(&model);
        let learned = weights.keys().filter(|name| !name.contains("running_")).count();
        assert_eq!(gradients.len(), learned, "{settings:?}");
    }
}

/// A file in a folder of its own.
fn file(name: &str, bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).expect("a file");
    (folder, path)
}

#[test]
fn a_saved_model_is_the_same_bits_again() -> Result<(), Error> {
    let device = Device::flex();
    for settings in small() {
        let model = random(&settings, shape(8, 1), 1, &device);
        let bytes = model.to_bytes()?;
        let (_folder, path) = file("model.safetensors", &bytes);
        // What model.toml has is enough to build it again.
        let text = toml::to_string(&settings.decided(8)).expect("toml");
        let settings: EncoderSettings = toml::from_str(&text).expect("toml");
        let again = random(&settings, shape(8, 1), 2, &device).with_weights(&path)?;
        assert!(again.to_bytes()? == bytes, "{settings:?}");
        let x = || images(shape(8, 1), 3, &device);
        assert_eq!(numbers(model.project(x())), numbers(again.project(x())));
    }
    Ok(())
}

/// A ResNet as torchvision would write it: no prefix, no projector, a classifier.
fn torchvisions(settings: &EncoderSettings, shape: ImageShape) -> Vec<u8> {
    let model = random(settings, shape, 5, &Device::flex());
    let weights = weights::weights_of(&model);
    let mut data: Vec<(String, Vec<usize>, Vec<u8>)> = vec![
        ("fc.weight".into(), vec![1, 512], vec![0; 2048]),
        ("bn1.num_batches_tracked".into(), vec![1], vec![0; 4]),
    ];
    for (name, weight) in weights {
        if let Some(name) = name.strip_prefix("encoder.") {
            let shape = weight.shape.iter().copied().collect();
            data.push((name.into(), shape, weight.into_bytes().expect("bytes").to_vec()));
        }
    }
    let views = data.iter().map(|(name, shape, bytes)| {
        let view =
            safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes);
        (name, view.expect("a view"))
    });
    safetensors::serialize(views, None).expect("bytes")
}

fn begun(settings: &EncoderSettings, shape: ImageShape, from: &Path) -> Result<Model, Error> {
    let settings = EncoderSettings { init: Some(from.to_path_buf()), ..settings.clone() };
    Model::initial(&settings, shape, 9, &Device::flex())
}

fn refused(settings: &EncoderSettings, shape: ImageShape, from: &Path) -> String {
    begun(settings, shape, from).map(drop).expect_err("a refusal").to_string()
}

#[test]
fn a_resnet_begins_with_torchvisions_weights() -> Result<(), Error> {
    let settings = named(EncoderName::ResNet18);
    let (_folder, path) = file("resnet18.safetensors", &torchvisions(&settings, shape(8, 3)));
    let model = begun(&settings, shape(8, 3), &path)?;
    let theirs = random(&settings, shape(8, 3), 5, &Device::flex());
    let own = random(&settings, shape(8, 3), 9, &Device::flex());
    let x = || images(shape(8, 3), 2, &Device::flex());
    assert_eq!(numbers(model.embed(x())), numbers(theirs.embed(x())));
    // The projector is what it would have been without.
    let projector = |model: &Model, x: Tensor<2>| {
        numbers(model.projector.as_ref().expect("a projector").forward(x))
    };
    let embedding = theirs.embed(x());
    assert_eq!(projector(&model, embedding.clone()), projector(&own, embedding));

    let said = refused(&settings, shape(8, 1), &path);
    assert!(said.contains("the weight conv1.weight is [64, 3, 3, 3] but must be [64, 1, 3, 3]"));
    assert!(said.contains("for images of 3 channels, and these have 1"), "{said}");
    let said = refused(&settings, shape(65, 3), &path);
    assert!(said.contains("but must be [64, 3, 7, 7]: it belongs to the small stem"), "{said}");
    let said = refused(&named(EncoderName::ResNet50), shape(8, 3), &path);
    assert!(
        said.contains("cannot begin a resnet50 with these weights: the weight layer1.0."),
        "{said}"
    );
    let said = refused(&named(EncoderName::Vit), shape(8, 3), &path);
    assert!(said.contains("cannot begin a vit") && said.contains("is missing"), "{said}");
    Ok(())
}

#[test]
fn a_model_of_kinfolds_is_a_beginning_too() -> Result<(), Error> {
    for settings in small() {
        let before = random(&settings, shape(8, 1), 5, &Device::flex());
        let (folder, path) = file("model.safetensors", &before.to_bytes()?);
        for from in [folder.path(), &path] {
            let model = begun(&settings, shape(8, 1), from)?;
            assert!(model.to_bytes()? == before.to_bytes()?, "{settings:?}");
        }
        // With another projector it keeps its own.
        let other = EncoderSettings {
            projector: Some(super::ProjectorForm::Linear),
            projection: Some(11),
            ..settings.clone()
        };
        let model = begun(&other, shape(8, 1), &path)?;
        let x = || images(shape(8, 1), 2, &Device::flex());
        assert_eq!(numbers(model.embed(x())), numbers(before.embed(x())));
        assert_eq!(model.project(x()).dims(), [2, 11]);
    }
    Ok(())
}

#[test]
fn pytorchs_own_files_are_read() -> Result<(), Error> {
    let bytes = include_bytes!("../../tests/golden/mlp.pth");
    let (_folder, path) = file("mlp.pth", bytes);
    let golden: Golden = serde_json::from_str(GOLDEN).expect("a golden file");
    let mlp = |case: &Case| case.settings.name == EncoderName::Mlp;
    let case = golden.cases.into_iter().find(mlp).expect("an mlp");
    let shape = shape(case.size, case.channels);
    let model = begun(&case.settings, shape, &path)?;
    let out = numbers(model.embed(images(shape, 3, &Device::flex())));
    assert!(out.iter().zip(&case.eval).all(|(a, b)| (a - b).abs() < 1e-5));

    for end in (0..bytes.len()).step_by(97) {
        let (_folder, path) = file("mlp.pth", &bytes[..end]);
        assert!(refused(&case.settings, shape, &path).contains("mlp.pth: cannot begin"), "{end}");
    }
    let (_folder, path) = file("mlp.bin", bytes);
    assert!(refused(&case.settings, shape, &path).contains("a .safetensors, .pth or .pt file"));
    let nothing = refused(&case.settings, shape, Path::new("nothing.pth"));
    assert!(nothing.contains("cannot read nothing.pth"), "{nothing}");
    Ok(())
}

#[test]
fn a_damaged_file_of_weights_is_refused() -> Result<(), Error> {
    let settings = &small()[0];
    let model = || random(settings, shape(8, 1), 0, &Device::flex());
    let bytes = model().to_bytes()?;
    for end in (0..bytes.len()).step_by(61) {
        let (_folder, path) = file("model.safetensors", &bytes[..end]);
        assert!(begun(settings, shape(8, 1), &path).is_err(), "{end}");
        assert!(model().with_weights(&path).is_err(), "{end}");
    }
    // Whole, but of another architecture.
    let other = EncoderSettings { embedding: Some(6), ..settings.clone() };
    let (_folder, path) = file("model.safetensors", &bytes);
    let said = refused(&other, shape(8, 1), &path);
    assert!(said.contains("the weight encoder.head.bias is [5] but must be [6]"), "{said}");
    let other = EncoderSettings { widths: Some(vec![4]), ..settings.clone() };
    let said = refused(&other, shape(8, 1), &path);
    assert!(said.contains("the weight encoder.head.weight is"), "{said}");
    Ok(())
}

#[test]
fn a_model_takes_what_its_size_says() {
    use burn::module::Module;
    let shapes = [(8, 1), (28, 1), (32, 3), (80, 3)];
    for name in [
        EncoderName::ConvNet,
        EncoderName::Mlp,
        EncoderName::ResNet18,
        EncoderName::ResNet50,
        EncoderName::Vit,
    ] {
        for (size, channels) in shapes {
            let shape = ImageShape { size, channels };
            let settings = EncoderSettings::named(name);
            let model = Model::random(&settings, shape, 0, &Default::default()).expect("possible");
            let told = settings.model_size(shape).weights;
            assert_eq!(told, model.num_params() as f64, "{name} for {size}×{size}, {channels}");
        }
    }
    let huge = EncoderSettings { widths: Some(vec![usize::MAX; 3]), ..Default::default() };
    assert!(huge.model_size(ImageShape { size: 32, channels: 3 }).weights > 1e38);
}
