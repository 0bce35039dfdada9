//! The interactive shell: asks one engine one question after the other.
//!
//! `session` has the engine, the tables and the settings, and runs statements and commands (`command`). On a terminal,
//! `editor` reads statements, `history` is the file of earlier ones, `names` completes words and `show` shows the rows, in a
//! pager if they are many.
//! Otherwise standard input is a script: `split` divides it into statements.

mod command;
mod editor;
mod history;
mod interrupts;
mod names;
mod session;
mod show;
mod split;

use std::io::{self, BufRead, IsTerminal};
use std::process::ExitCode;

use buzz_protocol::{ErrorKind, QueryError, Result};
use tokio::sync::mpsc;

use self::editor::{Editor, Entered};
use self::interrupts::Interrupts;
use self::session::{Lines, Next, Session};
use crate::args::ShellArguments;
use crate::ask::INTERRUPTED;
use crate::terminal::note;

/// Lines of a script that are read ahead.
const LINES_AHEAD: usize = 64;

/// Runs the shell on the terminal, or a script from standard input. Returns the exit code.
pub(crate) async fn carry_out(arguments: ShellArguments, threads: usize) -> ExitCode {
    let is_interactive = io::stdin().is_terminal() && io::stdout().is_terminal();
    let done = match started(&arguments, threads, is_interactive).await {
        Ok((session, _)) if is_interactive => interactive(session).await,
        Ok((session, interrupts)) => script(session, &interrupts).await,
        Err(error) => Err(error),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind == ErrorKind::Cancelled => {
            note("interrupted");
            ExitCode::from(INTERRUPTED)
        }
        Err(error) => {
            note(&format!("error: {error}"));
            ExitCode::FAILURE
        }
    }
}

async fn started(arguments: &ShellArguments, threads: usize, is_interactive: bool) -> Result<(Session, Interrupts)> {
    let interrupts =
        Interrupts::count().map_err(|error| QueryError::internal(format!("interrupts cannot be received: {error}")))?;
    let mut session = Session::new(arguments, threads, is_interactive, interrupts.clone()).await?;
    for (name, uri) in &arguments.tables {
        match session.add_table(name, uri).await {
            Err(error) if is_interactive => note(&format!("error: {error}")),
            added => added?,
        }
    }
    Ok((session, interrupts))
}

/// Reads statements from the terminal until its end.
async fn interactive(mut session: Session) -> Result<()> {
    note(&format!("Buzz {}. Statements end with a semicolon; .help lists the commands.", env!("CARGO_PKG_VERSION")));
    let mut editor = Editor::new(history::place())?;
    loop {
        let names = session.names();
        let text = match tokio::task::block_in_place(|| editor.read(names))? {
            Entered::End => return Ok(()),
            Entered::Interrupted => continue,
            Entered::Text(text) => text,
        };
        let done = match command::is_command(&text) {
            true => session.command(&text).await,
            false => session.run_all(&text).await.map(|()| Next::Continue),
        };
        match done {
            Ok(Next::Continue) => {}
            Ok(Next::Quit) => return Ok(()),
            Err(error) if error.kind == ErrorKind::Cancelled => note("cancelled"),
            Err(error) => note(&format!("error: {error}")),
        }
    }
}

/// Runs the statements of standard input, up to the first that fails.
async fn script(mut session: Session, interrupts: &Interrupts) -> Result<()> {
    let mut input = lines_of_input();
    let mut lines = Lines::default();
    loop {
        let before = interrupts.so_far();
        let line = tokio::select! {
            line = input.recv() => line.transpose()?,
            () = interrupts.after(before) => return Err(QueryError::cancelled("interrupted")),
        };
        let next = session.line(&mut lines, line.as_deref()).await?;
        if line.is_none() || next == Next::Quit {
            return Ok(());
        }
    }
}

/// Reads standard input in a thread of its own, since reading cannot be cancelled.
fn lines_of_input() -> mpsc::Receiver<Result<String>> {
    let (sender, receiver) = mpsc::channel(LINES_AHEAD);
    std::thread::spawn(move || {
        for line in io::stdin().lock().lines() {
            let line = line.map_err(|error| QueryError::invalid(format!("standard input is not readable: {error}")));
            if sender.blocking_send(line).is_err() {
                break;
            }
        }
    });
    receiver
}
