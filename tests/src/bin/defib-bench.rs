//! `make bench`: what the daemon costs, and how long somebody stays dead, beside the floor of the same work.
//!
//! usage: `defib-bench [--quick] [--part costs|latencies|recorder|page] [--workspaces N] [--engines N] [--ticks N] [--deaths N]
//! [--containers N] [--json FILE]`

use std::process::ExitCode;

use defib_tests::bench::{Part, Plan, bench, read_all, serve};

const USAGE: &str = "usage: defib-bench [--quick] [--part costs|latencies|recorder|page] [--workspaces N] [--engines N] [--ticks N] \
                     [--deaths N] [--containers N] [--json FILE]";

#[tokio::main]
async fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let ended = match words.as_slice() {
        // What the bench starts beside itself.
        ["floor", rounds] => match rounds.parse() {
            Ok(rounds) => read_all(rounds).await,
            Err(_) => return usage(&format!("floor takes a number, not {rounds}")),
        },
        ["engines", engines, workspaces] => match (engines.parse(), workspaces.parse()) {
            (Ok(engines), Ok(workspaces)) => serve(engines, workspaces).await,
            _ => return usage("engines takes two numbers"),
        },
        words => match asked(words) {
            Ok(asked) => run(asked).await,
            Err(why) => return usage(&why),
        },
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("defib-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

struct Asked<'a> {
    plan: Plan,
    part: Part,
    json: Option<&'a str>,
}

async fn run(asked: Asked<'_>) -> anyhow::Result<()> {
    let report = bench(asked.plan, asked.part).await?;
    println!("{report}");
    if let Some(path) = asked.json {
        std::fs::write(path, format!("{:#}\n", report.json()))?;
    }
    Ok(())
}

fn usage(why: &str) -> ExitCode {
    eprintln!("defib-bench: {why}; {USAGE}");
    ExitCode::from(2)
}

fn asked<'a>(words: &[&'a str]) -> Result<Asked<'a>, String> {
    let quick = words.contains(&"--quick");
    let mut asked = Asked { plan: if quick { Plan::quick() } else { Plan::full() }, part: Part::All, json: None };
    let mut words = words.iter().filter(|word| **word != "--quick");
    while let Some(option) = words.next() {
        let value = words.next().ok_or_else(|| format!("{option} needs a value"))?;
        let number = || match value.parse() {
            Ok(number) if number > 0 => Ok(number),
            _ => Err(format!("{option} takes a number above zero, not {value}")),
        };
        match *option {
            "--part" => {
                asked.part = match *value {
                    "costs" => Part::Costs,
                    "latencies" => Part::Latencies,
                    "recorder" => Part::Recorder,
                    "page" => Part::Page,
                    _ => return Err(format!("{option} takes costs, latencies, recorder or page, not {value}")),
                };
            }
            "--workspaces" => asked.plan.workspaces = number()?,
            "--engines" => asked.plan.engines = number()?,
            "--ticks" => asked.plan.ticks = number()?,
            "--deaths" => asked.plan.deaths = number()?,
            "--containers" => asked.plan.containers = number()?,
            "--json" => asked.json = Some(value),
            _ => return Err(format!("{option} is no option")),
        }
    }
    if asked.plan.workspaces < 10 * asked.plan.engines {
        return Err("there are at least ten workspaces for each engine".to_owned());
    }
    Ok(asked)
}
