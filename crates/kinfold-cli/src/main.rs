//! The `kinfold` command: arguments become validated settings, the other crates do the work, and
//! what they report is shown. Nothing else lives here.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong usage, 130 stopped by Ctrl-C or a signal that asks for the same
//! (what there was is saved).

mod arguments;
mod bench;
mod bench_shared;
mod processes;
mod show;
mod show_diagnosis;

use arguments::{
    Arguments, BenchArguments, Command, DiagnoseArguments, EmbedArguments, EvaluateArguments,
    ExportArguments, MineArguments, ReportArguments, SearchArguments, StudyCommand, TrainArguments,
    ViewsArguments,
};
use kinfold_data::Kind;
use kinfold_report::{Found, Recorder, StudyEvent};
use kinfold_train::run::SavedModel;
use kinfold_train::{Embedded, Error, Event, Format, Observer, Processes, Summary, run_folder};
use processes::Standing;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

fn main() -> ExitCode {
    let command = Arguments::read().command;
    let done = match &command {
        Command::Train(_) | Command::Bench(_) => run(command),
        alone => processes::only_one(alone.name()).and_then(|()| run(command)),
    };
    match done {
        Ok(code) if show::all_was_written() => code,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            show::error(&error);
            ExitCode::from(if error.is_usage() { 2 } else { 1 })
        }
    }
}

fn run(command: Command) -> Result<ExitCode, Error> {
    match command {
        Command::Train(arguments) => train(&arguments),
        Command::Embed(arguments) => embed(&arguments),
        Command::Export(arguments) => export(&arguments),
        Command::Views(arguments) => views(&arguments),
        Command::Evaluate(arguments) => evaluate(&arguments),
        Command::Diagnose(arguments) => diagnose(&arguments),
        Command::Report(arguments) => report(&arguments),
        Command::Search(arguments) => search(&arguments),
        Command::Mine(arguments) => mine(&arguments),
        Command::Study(asked) => study(&asked),
        Command::Bench(arguments) => bench(&arguments),
    }
}

/// A run that has not ended is known by its last checkpoint, which is said.
fn note_unfinished(run: &Path) -> Result<(), Error> {
    if let Some(step) = SavedModel::open(run)?.unfinished() {
        let run = run.display();
        show::note(&format!("{run} has not ended: this is its checkpoint of step {step}"));
    }
    Ok(())
}

/// A flag that Ctrl-C makes true, as do SIGTERM and SIGHUP, which end a job and a closed terminal's
/// commands; the second time the process ends.
fn stop_on_ctrl_c() -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&stop);
    let handler = move || {
        // The second time somebody means it.
        if asked.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        show::stopping();
    };
    if let Err(error) = ctrlc::set_handler(handler) {
        show::note(&format!("Ctrl-C will end this at once, without saving: {error}"));
    }
    stop
}

fn train(arguments: &TrainArguments) -> Result<ExitCode, Error> {
    let processes = processes::begin()?;
    if processes.are_several() {
        return Ok(train_together(arguments, &processes));
    }
    let stop = stop_on_ctrl_c();
    let mut progress = show::Training::new();
    let mut recorder = Recorder::new();
    let mut on_event = |event: Event<'_>| {
        progress.show(&event);
        recorder.on_event(&event)
    };
    let (out, summary) = match &arguments.resume {
        Some(path) => {
            let data = arguments.moved();
            (
                run_folder(path).to_path_buf(),
                kinfold_train::resume(path, data, &stop, &mut on_event),
            )
        }
        None => {
            let settings = arguments.settings()?;
            show::note(&format!("reading {} …", settings.data));
            loop {
                let out = arguments.out(&settings);
                let summary = kinfold_train::train(settings.clone(), &out, &stop, &mut on_event);
                // Another run of this second had that name first; there is a next one.
                if matches!(summary, Err(Error::RunExists(_))) && !arguments.names_out() {
                    continue;
                }
                break (out, summary);
            }
        }
    };
    progress.end();
    let summary = summary?;
    show::summary(&summary, &out);
    Ok(if summary.interrupted { ExitCode::from(130) } else { ExitCode::SUCCESS })
}

/// [`train`] of one process among several. The first shows what there is to see.
fn train_together(arguments: &TrainArguments, processes: &Processes) -> ExitCode {
    let standing = Standing::default();
    let stop = processes::stop_together(processes, &standing);
    let (mut progress, mut recorder) = (show::Training::in_lines(), Recorder::new());
    let mut on_event = |event: Event<'_>| {
        standing.on_event(&event);
        if !processes.is_first() {
            return Ok(());
        }
        progress.show(&event);
        recorder.on_event(&event)
    };
    match trained_together(arguments, processes, &stop, &mut on_event) {
        Ok((out, summary)) => {
            standing.end();
            if processes.is_first() {
                show::summary(&summary, &out);
            }
            ExitCode::from(if summary.interrupted { 130 } else { 0 })
        }
        Err(error) => processes::ended(&error, processes, &standing),
    }
}

/// The run's folder, and what it reached.
fn trained_together(
    arguments: &TrainArguments,
    processes: &Processes,
    stop: &AtomicBool,
    on_event: &mut Observer<'_>,
) -> Result<(PathBuf, Summary), Error> {
    processes.check_build(&processes::build())?;
    if let Some(path) = &arguments.resume {
        let data = arguments.moved();
        let summary = kinfold_train::resume_over(processes, path, data, stop, on_event)?;
        return Ok((run_folder(path).to_path_buf(), summary));
    }
    let settings = processes.agree(arguments.settings())?;
    if processes.is_first() {
        show::note(&format!("reading {} …", settings.data));
    }
    let out = arguments.out(&settings);
    let summary = kinfold_train::train_over(processes, settings, &out, stop, on_event)?;
    Ok((out, summary))
}

fn embed(arguments: &EmbedArguments) -> Result<ExitCode, Error> {
    let format = arguments.format()?;
    note_unfinished(&arguments.run)?;
    if let Some(views) = arguments.views {
        return embed_views(arguments, views, format);
    }
    let (run, data) = (&arguments.run, arguments.data.as_deref());
    let embedded = match arguments.documents {
        true => kinfold_train::embed_documents(run, data)?,
        false => kinfold_train::embed(run, data, arguments.average)?,
    };
    let embedded = cut(embedded, arguments)?;
    show::skipped(embedded.data.items());
    write(&embedded, &arguments.out, format)?;
    Ok(ExitCode::SUCCESS)
}

/// As many numbers as are asked for.
fn cut(embedded: Embedded, arguments: &EmbedArguments) -> Result<Embedded, Error> {
    match arguments.dimensions {
        Some(dim) => embedded.cut(dim),
        None => Ok(embedded),
    }
}

fn write(embedded: &Embedded, out: &Path, format: Format) -> Result<(), Error> {
    embedded.write(out, format)?;
    show::formulas(embedded, format);
    let (n, dim) = (embedded.data.items().len(), embedded.dim);
    show::line(&format!("{n} embeddings of dimension {dim} in {}", out.display()));
    Ok(())
}

fn embed_views(
    arguments: &EmbedArguments,
    views: usize,
    format: Format,
) -> Result<ExitCode, Error> {
    let embedded = kinfold_train::embed_views(&arguments.run, arguments.data.as_deref(), views)?;
    if let Some(first) = embedded.first() {
        show::skipped(first.data.items());
    }
    let files: Vec<_> = (1..=views).map(|number| arguments.out_of_view(number)).collect();
    for (embedded, file) in embedded.into_iter().zip(&files) {
        write(&cut(embedded, arguments)?, file, format)?;
    }
    if let [queries, keys, ..] = &files[..] {
        let (queries, keys) = (show::path(queries), show::path(keys));
        show::line(&format!(
            "row i of each is a view of one image: kinfold diagnose {queries} {keys}"
        ));
    }
    Ok(ExitCode::SUCCESS)
}

fn export(arguments: &ExportArguments) -> Result<ExitCode, Error> {
    note_unfinished(&arguments.run)?;
    kinfold_train::export(&arguments.run, arguments.format(), &arguments.out)?;
    show::line(&format!("the model is in {}", arguments.out.display()));
    Ok(ExitCode::SUCCESS)
}

fn views(arguments: &ViewsArguments) -> Result<ExitCode, Error> {
    let (settings, out) = (arguments.settings()?, &arguments.out);
    if settings.kind() == Kind::Texts {
        for text in kinfold_report::preview_texts(&settings, arguments.images)? {
            show::tokens(&text);
        }
        return Ok(ExitCode::SUCCESS);
    }
    if arguments.pairs.is_some() {
        let (rows, columns) = (arguments.images, arguments.columns);
        let preview = kinfold_report::preview_pairs(&settings, rows, columns, out)?;
        show::skipped(&preview.images.items);
        show::line(&format!("{} pairs in {}", preview.shown, out.display()));
        return Ok(ExitCode::SUCCESS);
    }
    let preview = kinfold_report::preview(&settings, arguments.images, arguments.columns, out)?;
    show::skipped(&preview.images.items);
    let (shown, n) = (preview.shown, preview.images.len());
    let columns = arguments.columns;
    show::line(&format!("{shown} of {n} images and {columns} views of each in {}", out.display()));
    Ok(ExitCode::SUCCESS)
}

fn evaluate(arguments: &EvaluateArguments) -> Result<ExitCode, Error> {
    note_unfinished(&arguments.run)?;
    if let Some(task) = arguments.one_shot() {
        let measured = kinfold_train::one_shot(&arguments.run, &task)?;
        if arguments.json {
            show::json(&measured);
        } else {
            show::one_shot(&measured);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let measuring = show::Measuring::new();
    let mut show = |progress| {
        measuring.show(&progress);
        Ok(())
    };
    let EvaluateArguments { run, dimensions, average, .. } = arguments;
    let source = arguments.source();
    let evaluated = kinfold_train::evaluate(run, source.as_ref(), dimensions, *average, &mut show);
    measuring.end();
    let evaluated = evaluated?;
    show::skipped(evaluated.data.items());
    match (&evaluated.evaluation, &evaluated.retrieval) {
        (Some(evaluation), None) if arguments.json => show::json(evaluation),
        (_, Some(retrieval)) if arguments.json => show::json(retrieval),
        (None, None) if arguments.json => show::json(&evaluated.scored),
        (evaluation, retrieval) => {
            if let Some(evaluation) = evaluation {
                show::judged_by(&evaluated.data, &evaluated.split);
                show::table(evaluation);
            }
            if let Some(retrieval) = retrieval {
                show::retrieval(retrieval);
            }
            if let Some(scored) = &evaluated.scored {
                show::scored(scored);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn diagnose(arguments: &DiagnoseArguments) -> Result<ExitCode, Error> {
    let asked = arguments.asked();
    if asked.keys.is_none() && asked.queries.is_dir() {
        note_unfinished(&asked.queries)?;
    }
    let report = kinfold_report::diagnose(&asked)?;
    if arguments.json {
        show_diagnosis::json(&report);
    } else {
        show_diagnosis::text(&report);
    }
    Ok(ExitCode::SUCCESS)
}

fn report(arguments: &ReportArguments) -> Result<ExitCode, Error> {
    let page = kinfold_report::report(&arguments.run, arguments.beside.as_deref())?;
    show::line(&format!("the report is {}", page.display()));
    Ok(ExitCode::SUCCESS)
}

fn search(arguments: &SearchArguments) -> Result<ExitCode, Error> {
    let SearchArguments { run, queries, data, neighbours, with_bm25, out, json } = arguments;
    if let Some(out) = out {
        Found::check_name(out)?;
    }
    note_unfinished(run)?;
    let found = kinfold_report::search(run, queries, data.as_deref(), *neighbours, *with_bm25)?;
    show::skipped(found.data.items());
    if *json {
        show::json(&found.matches);
    } else {
        show::matches(&found);
    }
    if let Some(out) = out {
        found.draw(out)?;
        show::note(&format!("the picture is {}", out.display()));
    }
    Ok(ExitCode::SUCCESS)
}

fn mine(arguments: &MineArguments) -> Result<ExitCode, Error> {
    let MineArguments { run, out, .. } = arguments;
    if let Some(run) = run {
        note_unfinished(run)?;
    }
    let measuring = show::Measuring::new();
    let (source, settings) = (arguments.source(), arguments.settings());
    let mut progress = |done, all| measuring.show_queries(done, all);
    let mined = kinfold_report::mine(run.as_deref(), &source, &settings, out, &mut progress);
    measuring.end();
    show::mined(&mined?, out);
    Ok(ExitCode::SUCCESS)
}

fn study(asked: &StudyCommand) -> Result<ExitCode, Error> {
    let (settings, out) = (asked.settings()?, &asked.out());
    let stop = stop_on_ctrl_c();
    let mut progress = show::Study::new();
    let mut on_event = |event: StudyEvent<'_>| progress.show(&event);
    let study = kinfold_report::study(&settings, out, &stop, &mut on_event)?;
    show::study(&study, out);
    Ok(if study.interrupted { ExitCode::from(130) } else { ExitCode::SUCCESS })
}

fn bench(arguments: &BenchArguments) -> Result<ExitCode, Error> {
    let processes = processes::begin()?;
    if processes.are_several() {
        return Ok(bench_together(arguments, &processes));
    }
    let record = bench::bench(arguments.case())?;
    if arguments.json {
        show::json(&record);
    } else {
        show::record(&record);
    }
    Ok(ExitCode::SUCCESS)
}

/// [`bench`] of one process among several.
fn bench_together(arguments: &BenchArguments, processes: &Processes) -> ExitCode {
    match bench_shared::bench(arguments.case(), processes) {
        Ok(record) => {
            match (processes.is_first(), arguments.json) {
                (true, true) => show::json(&record),
                (true, false) => show::shared_record(&record),
                (false, _) => {}
            }
            ExitCode::SUCCESS
        }
        Err(error) => processes::ended(&error, processes, &Standing::default()),
    }
}
