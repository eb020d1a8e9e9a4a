//! `kiln plan`: what a build would do, without doing it.

use super::build::{failed, progress_mode, watch_signals};
use super::explain::{self, HEADINGS, Row};
use super::{Opener, print, print_line};
use crate::args::PlanArgs;
use crate::build_spec;
use crate::environment::Environment;
use crate::error::Failure;
use crate::progress::Progress;
use crate::table;
use crate::template::{Columns, List};
use executor::build::{Amount, Forecast, Foreseen};
use planner::scheduler::Cancel;
use serde_json::{Value, json};

/// The status of `--exit-code` where a step would run.
const RUNS: u8 = 3;

const COLUMNS: Columns<'_> = Columns {
    type_name: "*plan.Step",
    default: "{{.Step}}\t{{.Line}}\t{{.Result}}\t{{.Instruction}}\t{{.Why}}",
    headings: HEADINGS,
};

/// Tells what a build with these flags would do.
pub fn run(args: &PlanArgs, open: &Opener<'_>, environment: &Environment) -> Result<(), Failure> {
    let list = List::new(args.format.as_deref().filter(|f| *f != "json"), COLUMNS)?;
    let forecast = forecast(args, open, environment)?;
    let rows: Vec<Row<'_>> = forecast
        .steps
        .iter()
        .map(|step| Row {
            memo: &step.memo,
            result: match step.foreseen {
                Foreseen::Hit => "HIT",
                Foreseen::RemoteHit => "REMOTE HIT",
                Foreseen::Miss => "MISS",
                Foreseen::Unknown => "UNKNOWN",
            },
            reason: step.reason.as_ref(),
            elsewhere: step.elsewhere.as_deref(),
        })
        .collect();
    if args.format.as_deref() == Some("json") {
        let mut document = explain::subject(&forecast.subject);
        document["compared"] = json!(forecast.compared);
        document["comparedWith"] = explain::compared_with(forecast.compared_with.as_ref());
        document["runs"] = json!(forecast.runs_anything());
        document["steps"] = json!(explain::values(&rows, true));
        document["pull"] = amount(forecast.pull);
        let push = forecast.push.iter();
        document["push"] = push
            .map(|(name, of)| {
                let mut value = amount(*of);
                value["repository"] = json!(name);
                value
            })
            .collect();
        print_line(&explain::pretty(&document));
    } else {
        if args.format.is_none() {
            print(&heading(&forecast));
        }
        let cells: Vec<Value> = (0..rows.len())
            .map(|at| explain::cells(&rows, at))
            .collect();
        print(&list.render(&cells)?);
        if args.format.is_none() {
            print(&footer(&forecast));
        }
    }
    if args.exit_code && forecast.runs_anything() {
        return Err(Failure::Status(RUNS));
    }
    Ok(())
}

fn forecast(
    args: &PlanArgs,
    open: &Opener<'_>,
    environment: &Environment,
) -> Result<Forecast, Failure> {
    let build_spec::Resolved {
        mut request,
        stream,
        warnings,
    } = build_spec::resolve(&args.build, environment)?;
    let mode = progress_mode(&args.build, environment)?;
    let store = open.store()?;
    let progress = Progress::new(mode, environment).without_findings();
    for warning in &warnings {
        progress.warn(warning);
    }
    let cancel = Cancel::default();
    let signals = watch_signals(&cancel)?;
    let prepared = executor::build::prepare(&store, &mut request, stream, &progress, &cancel);
    progress.set_dockerfile(&request.dockerfile_name, &request.dockerfile);
    let found = match prepared {
        Ok(()) => executor::build::forecast(&store, &request, &progress, &cancel),
        Err(failure) => Err(failure),
    };
    progress.finish();
    signals.close();
    found.map_err(|failure| failed(request, failure, &cancel))
}

fn amount(amount: Amount) -> Value {
    json!({
        "layers": amount.layers,
        "bytes": amount.bytes,
        "atMost": amount.at_most,
        "unknownLayers": amount.unknown,
    })
}

/// What the steps are compared with, where that is not the last build here.
fn heading(forecast: &Forecast) -> String {
    if !forecast.runs_anything() {
        return String::new();
    }
    match &forecast.compared_with {
        Some(other) => format!("Compared with {}.\n\n", other.phrase()),
        None if forecast.compared => String::new(),
        None => "It would be the first build of this Dockerfile here: there is nothing to compare with.\n\n".to_owned(),
    }
}

fn footer(forecast: &Forecast) -> String {
    let count = |foreseen: Foreseen| {
        let of = forecast
            .steps
            .iter()
            .filter(|step| step.foreseen == foreseen);
        of.count()
    };
    let elsewhere = match count(Foreseen::RemoteHit) {
        0 => String::new(),
        steps => format!(" {steps} cached elsewhere,"),
    };
    let mut text = format!(
        "\n{} cached,{elsewhere} {} to run, {} not known before others have run\n",
        count(Foreseen::Hit),
        count(Foreseen::Miss),
        count(Foreseen::Unknown)
    );
    text.push_str(&format!("to pull: {}\n", words(forecast.pull)));
    for (repository, amount) in &forecast.push {
        text.push_str(&format!("to push to {repository}: {}\n", words(*amount)));
    }
    text
}

fn words(amount: Amount) -> String {
    let mut text = if amount.layers == 0 && amount.unknown > 0 {
        String::new()
    } else if amount.layers == 0 {
        "nothing".to_owned()
    } else {
        let bound = if amount.at_most { "at most " } else { "" };
        let size = table::size(amount.bytes);
        format!(
            "{bound}{} ({size})",
            crate::progress::lines::layers(amount.layers)
        )
    };
    if amount.unknown > 0 {
        if !text.is_empty() {
            text.push_str(", and ");
        }
        let layers = crate::progress::lines::layers(amount.unknown);
        text.push_str(&format!("{layers} that steps have to make first"));
    }
    text
}
