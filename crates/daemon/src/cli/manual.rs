//! The man pages and the completions of shells. They are made from the declaration of the command line, so that they always say the same as
//! `--help`. The Debian package contains them; for the bare binary, `defib help-files` writes them.

use std::path::Path;

use anyhow::{Context as _, Result};
use clap::Command;
use clap_complete::{Shell, generate};
use clap_mangen::Man;
use clap_mangen::roff::{Inline, Roff, bold, roman};

/// Writes `man/defib*.1` and `completions/<shell>/<the name that the shell looks for>` below a folder.
pub(super) fn write_files(folder: &Path, program: &Command) -> Result<()> {
    let man = folder.join("man");
    make(&man)?;
    for page in pages(program)? {
        write(&man.join(&page.file), &page.text)?;
    }
    for (shell, name) in [(Shell::Bash, "defib"), (Shell::Zsh, "_defib"), (Shell::Fish, "defib.fish")] {
        let mut text = Vec::new();
        generate(shell, &mut visible(program), "defib", &mut text);
        let shells = folder.join("completions").join(shell.to_string());
        make(&shells)?;
        write(&shells.join(name), &text)?;
    }
    Ok(())
}

fn make(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))
}

fn write(file: &Path, text: &[u8]) -> Result<()> {
    std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}

/// The program without its hidden commands, which shells should not offer.
fn visible(program: &Command) -> Command {
    let mut shown = Command::new("defib").version(program.get_version().unwrap_or_default().to_owned());
    if let Some(about) = program.get_about() {
        shown = shown.about(about.clone());
    }
    let commands = program.get_subcommands().filter(|command| !command.is_hide_set());
    shown.disable_help_subcommand(true).subcommands(commands.cloned())
}

/// A man page.
struct Page {
    file: String,
    text: Vec<u8>,
}

/// The page of the program, and one for each command that `--help` shows.
fn pages(program: &Command) -> Result<Vec<Page>> {
    let mut program = visible(program);
    program.build();
    let mut waiting = vec![program];
    let mut all = Vec::new();
    while let Some(command) = waiting.pop() {
        waiting.extend(command.get_subcommands().filter(|it| !it.is_hide_set() && it.get_name() != "help").cloned());
        all.push(command);
    }
    let mut names: Vec<String> = all.iter().map(page_name).collect();
    names.sort();
    all.into_iter().map(|command| page(command, &names)).collect()
}

/// The name of a command's page, such as `defib-storm-end`.
fn page_name(command: &Command) -> String {
    command.get_display_name().unwrap_or(command.get_name()).to_owned()
}

fn page(command: Command, names: &[String]) -> Result<Page> {
    let name = page_name(&command);
    let has_commands = command.get_subcommands().next().is_some();
    let has_knobs = command.get_arguments().any(|argument| argument.get_env().is_some());
    let others = names.iter().filter(|other| **other != name);
    let file = format!("{name}.1");
    let own_exit = own_exit(&name);
    // The title is written here, because clap_mangen leaves an empty date out and what follows would take its place. There is no date: the
    // day of the build would make every build of the same commit another one.
    let title = format!(".TH {} 1 \"\" \"defib {}\" \"defib\"\n", name.to_uppercase(), env!("CARGO_PKG_VERSION"));
    let mut text = title.into_bytes();
    let man = Man::new(command);
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    man.render_options_section(&mut text)?;
    if has_commands {
        man.render_subcommands_section(&mut text)?;
    }
    let mut roff = Roff::new();
    entries(
        &mut roff,
        "EXIT STATUS",
        &[
            ("0", "The command did what it was asked to do."),
            ("1", own_exit),
            ("2", "The usage or the configuration is wrong. One line names what is wrong and what to do."),
        ],
    );
    if has_knobs {
        roff.control("SH", ["ENVIRONMENT"]);
        roff.text([roman(
            "Each setting is also an environment variable: DEFIB_ and the name of the option in capitals, with _ for -, such as \
             DEFIB_DATABASE_URL for --database-url. The option wins. A secret can stand in a file: append _FILE to the variable's name and \
             give the path of the file. /etc/defib/defib.env explains all variables, with their defaults and bounds.",
        )]);
    }
    entries(
        &mut roff,
        "FILES",
        &[
            (
                "/etc/defib/defib.env",
                "The environment of the service. It holds secrets, so only root and the group defib may read it.",
            ),
            ("/usr/share/defib", "Adapters to platforms' tables, presets of control planes, alerts and a dashboard."),
            ("/usr/share/doc/defib", "The documents: start with install.md and runbook.md."),
        ],
    );
    see_also(&mut roff, others);
    roff.to_writer(&mut text)?;
    Ok(Page { file, text })
}

/// What exit code 1 of a command means.
fn own_exit(page: &str) -> &'static str {
    match page {
        "defib-check" => {
            "Something is unreachable, not permitted or wrongly tuned. With --strict, also if there is only a warning."
        }
        "defib-status" => {
            "The database could not be read; or, with --exit-code, one of the workspaces shown is in trouble."
        }
        "defib-run" => "The daemon could not start, or had to end. The log says why.",
        _ => "The command failed, or what it was asked about does not exist. A line on standard error says why.",
    }
}

/// A section of terms with their explanations.
fn entries(roff: &mut Roff, title: &str, entries: &[(&str, &str)]) {
    roff.control("SH", [title]);
    for (term, meaning) in entries {
        roff.control("TP", []);
        roff.text([bold(*term)]);
        roff.text([roman(*meaning)]);
    }
}

fn see_also<'a>(roff: &mut Roff, pages: impl Iterator<Item = &'a String>) {
    roff.control("SH", ["SEE ALSO"]);
    let mut line: Vec<Inline> = Vec::new();
    for page in pages {
        if !line.is_empty() {
            line.push(roman(", "));
        }
        line.push(bold(page.as_str()));
        line.push(roman("(1)"));
    }
    roff.text(line);
}

#[cfg(test)]
mod tests {
    use clap::{Arg, CommandFactory as _};

    use super::*;

    #[test]
    fn every_command_that_help_shows_has_a_page_and_no_other_has() {
        let pages = pages(&super::super::Cli::command()).expect("pages");
        let mut files: Vec<&str> = pages.iter().map(|page| page.file.as_str()).collect();
        files.sort_unstable();
        for expected in ["defib.1", "defib-run.1", "defib-status.1", "defib-storm.1", "defib-storm-end.1"] {
            assert!(files.contains(&expected), "{expected} is not among {files:?}");
        }
        assert!(!files.iter().any(|file| file.contains("help")), "a hidden command has a page: {files:?}");
        assert_eq!(files.len(), files.iter().collect::<std::collections::BTreeSet<_>>().len(), "two pages of one name");
    }

    #[test]
    fn a_page_says_exit_codes_environment_files_and_the_other_pages() {
        let knob = Arg::new("knob").long("knob").env("DEFIB_KNOB");
        let program = Command::new("defib").subcommand(Command::new("one").arg(knob)).subcommand(Command::new("two"));
        let pages = pages(&program).expect("pages");
        let text = |file: &str| {
            let page = pages.iter().find(|page| page.file == file).expect("the page");
            String::from_utf8(page.text.clone()).expect("UTF-8")
        };
        for section in [".SH \"EXIT STATUS\"", ".SH ENVIRONMENT", ".SH FILES", ".SH \"SEE ALSO\""] {
            assert!(text("defib-one.1").contains(section), "no {section} in:\n{}", text("defib-one.1"));
        }
        assert!(!text("defib-two.1").contains(".SH ENVIRONMENT"), "a command without knobs has no environment");
        assert!(text("defib-two.1").contains("\\fBdefib\\-one\\fR"), "{}", text("defib-two.1"));
    }
}
