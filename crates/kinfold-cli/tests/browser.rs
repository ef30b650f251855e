//! The report as a browser shows it: it renders, on a phone and on a screen, in light and in dark, with
//! nothing to complain of. Without Chromium there is nothing to ask.
#![allow(clippy::print_stdout, reason = "says what it skips")]

use std::path::{Path, PathBuf};
use std::process::Command;

/// Where Chromium is, if it is anywhere.
fn chromium() -> Option<PathBuf> {
    let folders: Vec<PathBuf> = std::env::split_paths(&std::env::var_os("PATH")?).collect();
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let all = names.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
    all.into_iter().find(|path| path.is_file())
}

/// What the browser prints of a page of this width: its document, and what it logs.
fn browse(
    chromium: &Path,
    page: &Path,
    width: u32,
    dark: bool,
    flags: &[String],
) -> (String, String) {
    let profile = tempfile::tempdir().unwrap();
    let scheme = if dark { 0 } else { 1 };
    let output = Command::new(chromium)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
        .args(["--hide-scrollbars", "--enable-logging=stderr"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("--blink-settings=preferredColorScheme={scheme}"))
        .arg(format!("--window-size={width},900"))
        .args(flags)
        .arg(format!("file://{}", page.display()))
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

#[test]
fn the_report_renders() {
    let Some(chromium) = chromium() else {
        println!("skipped: chromium is not installed");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let trained = Command::new(env!("CARGO_BIN_EXE_kinfold"))
        .args(["train", "--epochs", "2", "--out"])
        .arg(&run)
        .output()
        .unwrap();
    assert!(trained.status.success(), "{}", String::from_utf8_lossy(&trained.stderr));
    let page = run.join("report.html");

    // The page itself runs no script; a copy does, to say how wide it came out and what it could show.
    let asks = "<script>addEventListener('load', () => { const root = document.documentElement; \
        const broken = [...document.images].filter(image => !image.naturalWidth).length; \
        const small = [...document.querySelectorAll('p, td, dd')].filter(e => \
        e.offsetParent && parseFloat(getComputedStyle(e).fontSize) < 12).length; \
        document.title = `wide ${root.scrollWidth} of ${root.clientWidth}, ${broken} broken, \
        ${small} small, ${getComputedStyle(document.body).backgroundColor}`; });</script></body>";
    let asking = folder.path().join("asking.html");
    let html = std::fs::read_to_string(&page).unwrap();
    std::fs::write(&asking, html.replace("</body>", asks)).unwrap();

    let mut shades = Vec::new();
    for (width, dark) in [(390, false), (390, true), (1280, false), (1280, true)] {
        let (document, said) = browse(&chromium, &asking, width, dark, &["--dump-dom".to_owned()]);
        assert!(!said.contains("CONSOLE"), "{said}");
        let title = document.split("<title>").nth(1).and_then(|rest| rest.split('<').next());
        let title = title.unwrap_or_else(|| panic!("no document: {said}"));
        let numbers: Vec<u32> =
            title.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok()).collect();
        let [wide, of, broken, small, red, ..] = numbers[..] else { panic!("{title}") };
        assert!(wide <= of, "at {width} it is too wide: {title}");
        assert_eq!((broken, small), (0, 0), "{title}");
        shades.push(red);

        let picture = folder.path().join(format!("{width}-{dark}.png"));
        let (_, said) =
            browse(&chromium, &page, width, dark, &[format!("--screenshot={}", picture.display())]);
        assert!(!said.contains("CONSOLE"), "{said}");
        let pixels = image::open(&picture).unwrap().into_luma8();
        let mean = pixels.iter().map(|&p| f64::from(p)).sum::<f64>() / pixels.len() as f64;
        assert!(if dark { mean < 80.0 } else { mean > 180.0 }, "{mean} at {width}, dark: {dark}");
        let ink = pixels.iter().filter(|&&p| if dark { p > 150 } else { p < 110 }).count();
        assert!(ink * 200 > pixels.len(), "nearly nothing is written: {ink}");
    }
    assert!(shades[0] > 200 && shades[1] < 60 && shades[2] > 200 && shades[3] < 60, "{shades:?}");
}
