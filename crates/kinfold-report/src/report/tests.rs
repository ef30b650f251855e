//! The page, of runs of many kinds: it is whole, asks for nothing, and takes no name for markup.

use super::*;
use crate::Recorder;
use kinfold_train::{Event, Settings, Summary, evaluate, train};
use std::fs;
use std::sync::atomic::AtomicBool;
use tempfile::TempDir;

/// A folder of noisy images of bars, one file a name.
fn images(names: &[&str], side: u32) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for (i, name) in names.iter().enumerate() {
        let image = image::RgbImage::from_fn(side, side, |x, y| {
            let noise = (x * 7919 + y * 104_729 + i as u32 * 1299) % 251;
            let bar = if x as usize % names.len() == i { 255 } else { 0 };
            image::Rgb([noise as u8, (noise * 31 % 256) as u8, bar])
        });
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        image.save_with_format(&path, image::ImageFormat::Png).expect("written");
    }
    folder
}

/// A small run on these, one epoch long; its summary and its page.
fn trained(data: &str, out: &Path, change: impl FnOnce(&mut Settings)) -> (Summary, String) {
    let mut settings = Settings { data: data.to_owned(), epochs: 1, ..Settings::default() };
    (settings.encoder.widths, settings.encoder.embedding) = (Some(vec![2, 4]), Some(8));
    settings.image.size = (data != "digits").then_some(16);
    change(&mut settings);
    let mut recorder = Recorder::new();
    let on_event = &mut |event: Event<'_>| recorder.on_event(&event);
    let summary = train(settings, out, &AtomicBool::new(false), on_event).expect("trained");
    (summary, page(out))
}

fn page(run: &Path) -> String {
    fs::read_to_string(run.join(FILE)).expect("a report")
}

/// Whether every tag is closed in its order and every attribute quoted; the tags, or what is wrong.
fn tags(html: &str) -> Result<Vec<String>, String> {
    const VOID: [&str; 5] = ["meta", "link", "img", "br", "!DOCTYPE"];
    let (mut open, mut all): (Vec<String>, Vec<String>) = (Vec::new(), Vec::new());
    let mut rest = html;
    while let Some(at) = rest.find('<') {
        let text = &rest[..at];
        if text.contains('>') && open.last().is_none_or(|tag| tag != "style") {
            return Err(format!("a loose > in {text:?}"));
        }
        let tag = &rest[at + 1..];
        // A quoted attribute may hold anything but a quote.
        let mut quoted = false;
        let end = tag.find(|c| {
            quoted ^= c == '"';
            c == '>' && !quoted
        });
        let tag = &tag[..end.ok_or("a tag does not end")?];
        rest = &rest[at + 1 + tag.len() + 1..];
        let name =
            tag.trim_end_matches('/').split_whitespace().next().ok_or("a tag has no name")?;
        if let Some(name) = name.strip_prefix('/') {
            match open.pop() {
                Some(last) if last == name => {}
                last => return Err(format!("</{name}> closes {last:?}")),
            }
            continue;
        }
        let unquoted: String = tag.split('"').step_by(2).collect();
        for attribute in unquoted.split_whitespace().skip(1).filter(|a| *a != "/" && *a != "html") {
            let (key, value) =
                attribute.split_once('=').ok_or(format!("{attribute} in <{tag}>"))?;
            let plain = key.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
            if !plain || !value.trim_end_matches('/').is_empty() {
                return Err(format!("{attribute} in <{tag}>"));
            }
        }
        all.push(name.to_owned());
        if !VOID.contains(&name) && !tag.ends_with('/') {
            open.push(name.to_owned());
        }
    }
    match open.is_empty() && !rest.contains('>') {
        true => Ok(all),
        false => Err(format!("not closed: {open:?}, then {rest:?}")),
    }
}

/// What must hold of every page.
fn holds(html: &str) {
    let tags = tags(html).unwrap_or_else(|wrong| panic!("{wrong}"));
    for never in ["script", "iframe", "object", "embed", "form", "base"] {
        assert!(tags.iter().all(|tag| tag != never), "<{never}>");
    }
    for address in ["http:", "https:", "\"//", "url(", "@import", "javascript:"] {
        assert!(!html.contains(address), "{address}");
    }
    assert!(html.len() < 3_000_000, "{} bytes", html.len());
    let pictures = tags.iter().filter(|tag| *tag == "img").count();
    assert_eq!(html.matches(" alt=\"").count(), pictures);
    let drawings = html.matches("<svg ").count();
    assert_eq!(html.matches("role=\"img\" aria-label=\"").count(), drawings);
    let words = html.split('"').filter(|part| !part.starts_with("data:"));
    let mut words = words.flat_map(|part| part.split(|c: char| !c.is_ascii_alphanumeric()));
    assert!(words.all(|word| !["NaN", "inf"].contains(&word)), "a number is none");
}

#[test]
fn the_check_itself_sees_what_is_wrong() {
    assert!(tags("<p class=\"a\">x<br>y</p><path d=\"M0\"/>").is_ok());
    for wrong in ["<p>", "<p></i>", "</p>", "<p class=a></p>", "a > b", "<p", "<p onload></p>"] {
        assert!(tags(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn the_page_of_digits_has_every_part() {
    let folder = tempfile::tempdir().expect("a folder");
    let run = folder.path().join("a run");
    let (summary, html) = trained("digits", &run, |settings| settings.epochs = 2);
    holds(&html);
    let titles: Vec<&str> = html
        .split("<section><h2>")
        .skip(1)
        .map(|part| part.split('<').next().unwrap_or_default())
        .collect();
    let all = ["Loss", "The identity appears", "Pairs and the rest", "Map", "Nearest neighbours"];
    assert_eq!(titles, [&all[..], &["What it is worth", "Diagnosis"]].concat());
    // Each part with a figure says what a good one is like.
    assert_eq!(html.matches("A good one:").count(), titles.len());
    let command = format!(
        "kinfold train --config '{}/config.toml'",
        kinfold_train::relative_path(&run).display()
    );
    assert!(html.contains(&command), "{command}");
    for moment in ["before training", "after 2 steps", "at the end, after 6 steps"] {
        assert!(html.contains(moment), "{moment}");
    }
    assert!(html.contains(&format!("{:.3}", summary.loss)));
    let evaluation = summary.evaluation.expect("digits have labels");
    assert!(html.contains(&format!("{:.1} %", 100.0 * evaluation.one_shot.trained)));
    assert!(html.contains("a hit") && html.contains("✓"));
    // Two layouts of the one curve, and a chip for every digit.
    assert!(html.contains("svg class=\"wide\"") && html.contains("svg class=\"narrow\""));
    assert_eq!(html.matches("class=\"chip ").count(), 10);

    // Made anew it is the same, and changes nothing else.
    let before = files(&run);
    fs::remove_file(run.join(FILE)).expect("removed");
    assert_eq!(report(&run, None).expect("made anew"), run.join(FILE));
    assert_eq!(page(&run), html);
    assert_eq!(files(&run), before);
}

fn files(run: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(run).expect("a folder").map(|entry| entry.expect("an entry").path());
    let mut files: Vec<_> = entries
        .map(|path| (path.display().to_string(), fs::read(&path).expect("readable")))
        .collect();
    files.sort();
    files
}

#[test]
fn names_are_never_markup() {
    let names: Vec<String> = (0..24)
        .map(|i| {
            let label =
                ["<img src=x onerror=alert(1)>", "\"'><script>alert(2)<&\u{7}script>"][i % 2];
            format!("{label}/{i:02}'\"><b>&amp;.png")
        })
        .collect();
    let data = images(&names.iter().map(String::as_str).collect::<Vec<_>>(), 16);
    let inner = data.path().join("<title><script>alert(3)<");
    fs::create_dir(&inner).expect("made");
    for label in fs::read_dir(data.path()).expect("read").map(|entry| entry.expect("entry").path())
    {
        if label != inner {
            fs::rename(&label, inner.join(label.file_name().expect("a name"))).expect("moved");
        }
    }
    let runs = tempfile::tempdir().expect("a folder");
    let run = runs.path().join("<svg onload=alert(4)>");
    let (_, html) = trained(&inner.display().to_string(), &run, |_| {});
    holds(&html);
    assert!(html.contains("&lt;svg onload=alert(4)&gt;") && html.contains("onerror=alert(1)&gt;"));
    assert!(html.contains("&amp;\u{fffd}script&gt;"), "a character of control is replaced");
}

#[test]
fn a_run_without_labels_or_evaluation_has_its_page() {
    let names: Vec<String> = (0..12).map(|i| format!("{i:02}.png")).collect();
    let data = images(&names.iter().map(String::as_str).collect::<Vec<_>>(), 16);
    let runs = tempfile::tempdir().expect("a folder");
    let run = runs.path().join("run");
    let (summary, html) = trained(&data.path().display().to_string(), &run, |settings| {
        settings.loss.learned_temperature = Some(true);
    });
    holds(&html);
    assert_eq!((summary.evaluation, summary.steps), (None, 1));
    assert!(html.contains("No labelled images were held out"));
    assert!(html.contains("There are no labels") && !html.contains("a hit"));
    assert!(html.contains("ordered by similarity") && html.contains("that are trained on"));
    assert!(html.contains("temperature over 1 step"), "a learned temperature is drawn");

    // The data is gone: what there is stays, and the page says what is not.
    drop(data);
    report(&run, None).expect("made anew");
    let html = page(&run);
    holds(&html);
    assert!(html.contains("There is no map and no neighbours here") && html.contains("<h2>Loss"));
}

#[test]
fn a_run_that_was_ended_by_force_has_its_page() {
    let runs = tempfile::tempdir().expect("a folder");
    let run = runs.path().join("run");
    let (_, whole) = trained("digits", &run, |_| {});
    for file in ["summary.json", "model.toml", "model.safetensors", "snapshots.json"] {
        fs::remove_file(run.join(file)).expect("there");
    }
    let metrics = fs::read_to_string(run.join("metrics.jsonl")).expect("there");
    let torn: String =
        metrics.chars().take(metrics.find("\"step\":2").expect("two") + 12).collect();
    fs::write(run.join("metrics.jsonl"), torn).expect("written");
    report(&run, None).expect("made anew");
    let html = page(&run);
    holds(&html);
    assert!(html.contains("it is still going on, or was ended by force") && html != whole);
    assert!(html.contains("over 1 step,"), "the torn line is no step");
    fs::remove_file(run.join("config.toml")).expect("there");
    assert!(matches!(report(&run, None), Err(Error::NotARun { .. })));
}

#[test]
fn losses_without_a_floor_and_large_noisy_images_have_their_page() {
    let names: Vec<String> = (0..120).map(|i| format!("class {}/{i:03}.png", i % 20)).collect();
    let data = images(&names.iter().map(String::as_str).collect::<Vec<_>>(), 96);
    let runs = tempfile::tempdir().expect("a folder");
    let run = runs.path().join("run");
    let (summary, html) = trained(&data.path().display().to_string(), &run, |settings| {
        settings.image.size = Some(96);
        settings.loss.name = Some("sup-con".to_owned());
    });
    holds(&html);
    assert_eq!(summary.loss_floor, None);
    assert!(html.contains("no floor is known"));
}

#[test]
fn measures_by_dimension_are_drawn_with_another_run_beside_them() {
    let runs = tempfile::tempdir().expect("a folder");
    let [cut, plain] = ["cut", "plain"].map(|name| runs.path().join(name));
    let (summary, html) = trained("digits", &cut, |settings| {
        settings.loss.matryoshka = vec![8, 4, 2];
    });
    trained("digits", &plain, |_| {});
    holds(&html);
    assert_eq!(html.matches("numbers of an embedding").count(), 2);
    assert!(!html.contains("In brackets"));

    report(&cut, Some(&plain)).expect("made anew");
    let html = page(&cut);
    holds(&html);
    let own = &summary.evaluation.expect("digits have labels").by_dimension[1];
    let other = evaluate(&plain, None, &[4], None, &mut |_| Ok(())).expect("evaluated");
    let other = other.evaluation.expect("digits have labels");
    let [own, other] =
        [own.one_shot, other.by_dimension[0].one_shot].map(|x| format!("{:.1} %", 100.0 * x));
    assert!(html.contains(&format!("{own} ({other})")), "{own} ({other})");
    assert!(html.contains(&format!("{other} at 4, ")), "the curve says it, too");

    // The other way round there is nothing to measure at.
    let said = report(&plain, Some(&cut)).expect_err("no dimensions").to_string();
    assert!(said.contains("no measures by dimension"), "{said}");
}
