//! A command line on a node, whatever carries it: ssh or a local process.

use crate::error::{Error, Kind, Result};
use async_trait::async_trait;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub(crate) mod carry;
pub mod local;
mod place;
pub mod ssh;

/// Standard output or standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

/// Takes output as it comes.
pub type Tap = fn(Stream, &[u8]);

/// A command to run on a node.
#[derive(Debug, Clone)]
pub struct Command {
    /// Program and arguments. Secrets never stand here: every user of the node can read them.
    pub argv: Vec<String>,
    /// Standard input, where secrets go.
    pub stdin: Vec<u8>,
    /// It fails after this long without a byte of output.
    pub silence: Duration,
    /// Takes the output as it comes, beside the end of it that is kept.
    pub tap: Option<Tap>,
}

impl Command {
    /// A command with these words.
    pub fn new<S: AsRef<str>>(argv: &[S]) -> Self {
        let argv = argv.iter().map(|word| word.as_ref().to_owned()).collect();
        Self { argv, stdin: Vec::new(), silence: Duration::from_secs(120), tap: None }
    }

    /// A script of `sh`; the arguments are `$1`, `$2`, ...
    pub fn script<S: AsRef<str>>(script: &str, args: &[S]) -> Self {
        let mut command = Self::new(&["sh", "-c", script, "sh"]);
        command.argv.extend(args.iter().map(|word| word.as_ref().to_owned()));
        command
    }

    /// With this standard input.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// With output passed on as it comes.
    #[must_use]
    pub fn tap(mut self, take: Tap) -> Self {
        self.tap = Some(take);
        self
    }

    /// Passes a piece of its output on.
    pub(crate) fn pass(&self, stream: Stream, bytes: &[u8]) {
        if let Some(take) = self.tap {
            take(stream, bytes);
        }
    }

    /// With this limit of silence.
    #[must_use]
    pub fn silence(mut self, limit: Duration) -> Self {
        self.silence = limit;
        self
    }
}

/// What a command left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Exit status; 128 and the signal for a killed command. Over ssh, 254 stands for 255 too.
    pub code: i32,
    /// Standard output, at most its last megabyte.
    pub stdout: Vec<u8>,
    /// Standard error, at most its last megabyte.
    pub stderr: Vec<u8>,
}

impl Output {
    /// Standard output without white space at its ends.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim().to_owned()
    }

    /// The last line of standard error, or of standard output.
    pub fn last_line(&self) -> String {
        let (err, out) = (String::from_utf8_lossy(&self.stderr), String::from_utf8_lossy(&self.stdout));
        let last = |text: &str| text.lines().rev().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned);
        last(&err).or_else(|| last(&out)).unwrap_or_else(|| format!("exit status {}", self.code))
    }
}

/// A command line on a node. Relative paths are below the login directory.
#[async_trait]
pub trait Shell: Send + Sync {
    /// Runs a command to its end.
    ///
    /// # Errors
    /// When the node cannot be reached or the command is silent for too long; a command that fails is no error here.
    async fn run(&self, command: &Command) -> Result<Output>;

    /// A local address that leads to a port of the node's loopback, for as long as the shell lives.
    ///
    /// # Errors
    /// When no local port can be had.
    async fn address(&self, port: u16) -> Result<SocketAddr>;

    /// Program and arguments of a login for a person, and the folder to run them in.
    fn login(&self) -> (Vec<String>, Option<PathBuf>);
}

impl dyn Shell + '_ {
    /// Runs a command that must succeed.
    ///
    /// # Errors
    /// When it cannot run or exits with another status than 0.
    pub async fn must(&self, command: &Command) -> Result<Output> {
        let output = self.run(command).await?;
        if output.code == 0 {
            return Ok(output);
        }
        let shown = command.argv.first().map_or("", |word| if word == "sh" { "script" } else { word });
        let meaning = format!("`{shown}` ended with status {} on the node", output.code);
        Err(crate::signs::explain(&output.last_line(), Kind::Command, &meaning))
    }

    /// Writes a file with this mode, whole or not at all; folders above it are created.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub async fn put(&self, path: &str, mode: u32, bytes: &[u8]) -> Result<()> {
        let script = r#"set -e; umask 077; d=$(dirname "$1"); mkdir -p "$d"; t="$1.part.$$"
            cat > "$t" || { rm -f "$t"; exit 1; }; chmod "$2" "$t"; mv "$t" "$1""#;
        let mode = format!("{mode:o}");
        let command = Command::script(script, &[path, &mode]).stdin(bytes).silence(Duration::from_secs(600));
        self.must(&command).await.map(drop)
    }

    /// Reads a file, in pieces: the output of one command is bounded.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn get(&self, path: &str) -> Result<Vec<u8>> {
        const PIECE: usize = 512 << 10;
        let mut all = Vec::new();
        loop {
            let words = [path, &(all.len() + 1).to_string(), &PIECE.to_string()];
            let script = r#"[ -r "$1" ] || { cat -- "$1"; exit 1; }; tail -c "+$2" "$1" | head -c "$3""#;
            let piece = self.must(&Command::script(script, &words)).await?.stdout;
            all.extend_from_slice(&piece);
            if piece.len() < PIECE {
                return Ok(all);
            }
        }
    }
}

/// The words as one line for a remote shell.
///
/// # Errors
/// When a word holds a NUL byte.
pub fn quote(argv: &[String]) -> Result<String> {
    let wrong = |_| Error::usage("a NUL byte in a command", "no shell can take it", "remove it");
    shlex::try_join(argv.iter().map(String::as_str)).map_err(wrong)
}
