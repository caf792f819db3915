//! A terminal in memory: a program runs on it, keys go in, and its picture can be read.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcgetattr, tcsetwinsize};

/// The deadline of every wait.
const DEADLINE: Duration = Duration::from_secs(60);

/// Asks again and again until there is an answer.
pub(crate) fn until<T>(wanted: &str, mut answer: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(answer) = answer() {
            return answer;
        }
        assert!(started.elapsed() < DEADLINE, "not in time: {wanted}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A program on a terminal.
pub(crate) struct Pty {
    child: Child,
    keyboard: File,
    /// Held open, so that the terminal can be looked at after the end of the program.
    terminal: OwnedFd,
    modes: String,
    output: Receiver<Vec<u8>>,
    bytes: Vec<u8>,
    picture: Picture,
}

impl Drop for Pty {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Pty {
    /// Starts a program on a new terminal.
    pub(crate) fn start(mut command: Command, columns: u16, rows: u16) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY;
        let keyboard = openpt(flags).expect("a terminal");
        grantpt(&keyboard).expect("is ours");
        unlockpt(&keyboard).expect("is open");
        let terminal = ioctl_tiocgptpeer(&keyboard, flags).expect("its other end");
        tcsetwinsize(&terminal, size(columns, rows)).expect("has a size");
        let modes = modes(&terminal);
        let end = || Stdio::from(terminal.try_clone().expect("can be shared"));
        let child = command.stdin(end()).stdout(end()).stderr(end()).spawn().expect("it starts");
        let keyboard = File::from(keyboard);
        let mut screen = keyboard.try_clone().expect("can be shared");
        let (sender, output) = sync_channel(64);
        std::thread::spawn(move || {
            let mut part = [0; 4096];
            while let Ok(read @ 1..) = screen.read(&mut part) {
                if sender.send(part[..read].to_vec()).is_err() {
                    return;
                }
            }
        });
        let picture = Picture::new(columns, rows);
        Self { child, keyboard, terminal, modes, output, bytes: Vec::new(), picture }
    }

    /// Waits until all of these texts are on the screen.
    pub(crate) fn wait_for(&mut self, texts: &[&str]) {
        let started = Instant::now();
        loop {
            let shown = self.picture.text();
            let missing: Vec<_> = texts.iter().filter(|text| !shown.contains(**text)).collect();
            if missing.is_empty() {
                return;
            }
            let left = DEADLINE.saturating_sub(started.elapsed());
            match self.output.recv_timeout(left) {
                Ok(bytes) => self.take(&bytes),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    panic!("missing: {missing:?}\n{shown}")
                }
            }
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.picture.write(bytes);
    }

    /// Types.
    pub(crate) fn press(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).expect("is typed");
    }

    /// Gives the terminal another size. What it showed is gone, as with many terminals.
    pub(crate) fn resize(&mut self, columns: u16, rows: u16) {
        self.picture = Picture::new(columns, rows);
        tcsetwinsize(&self.terminal, size(columns, rows)).expect("has a size");
    }

    /// Sends a signal to the program.
    pub(crate) fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("has an id");
        kill_process(id, signal).expect("runs");
    }

    /// The program ends with this status.
    pub(crate) fn ends(&mut self, status: i32) {
        let ended = until("the program ends", || {
            // Read meanwhile, so that the program cannot block on a full terminal.
            while let Ok(bytes) = self.output.try_recv() {
                self.take(&bytes);
            }
            self.child.try_wait().expect("is ours")
        });
        while let Ok(bytes) = self.output.recv_timeout(Duration::from_millis(200)) {
            self.take(&bytes);
        }
        assert_eq!(ended.code(), Some(status), "{}", self.picture.text());
    }

    /// The program ends with this status, and leaves the terminal as it was.
    pub(crate) fn ends_restored(&mut self, status: i32) {
        assert!(self.was_full_screen());
        self.ends(status);
        assert_eq!(modes(&self.terminal), self.modes);
        let place = |wanted: &str| {
            let wanted = wanted.as_bytes();
            self.bytes.windows(wanted.len()).rposition(|part| part == wanted)
        };
        assert!(place("\x1b[?1049l") > place("\x1b[?1049h"), "the full screen is left");
        assert!(place("\x1b[?25h") > place("\x1b[?25l"), "the cursor is shown again");
    }

    /// True if the program has taken the whole screen.
    pub(crate) fn was_full_screen(&self) -> bool {
        self.bytes.windows(8).any(|part| part == b"\x1b[?1049h")
    }
}

fn size(columns: u16, rows: u16) -> Winsize {
    Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 }
}

fn modes(terminal: &OwnedFd) -> String {
    format!("{:?}", tcgetattr(terminal.as_fd()).expect("is a terminal"))
}

/// The cells of a terminal that knows texts, moves of the cursor, and clearing.
struct Picture {
    cells: Vec<Vec<char>>,
    row: usize,
    column: usize,
    /// Bytes that may be the beginning of something.
    rest: Vec<u8>,
}

impl Picture {
    fn new(columns: u16, rows: u16) -> Self {
        let cells = vec![vec![' '; usize::from(columns)]; usize::from(rows)];
        Self { cells, row: 0, column: 0, rest: Vec::new() }
    }

    fn text(&self) -> String {
        let lines = self.cells.iter().map(|row| row.iter().collect::<String>().trim_end().to_owned());
        lines.collect::<Vec<_>>().join("\n")
    }

    fn write(&mut self, bytes: &[u8]) {
        self.rest.extend_from_slice(bytes);
        let rest = std::mem::take(&mut self.rest);
        let whole = match std::str::from_utf8(&rest) {
            Ok(_) => rest.len(),
            Err(e) => e.valid_up_to(),
        };
        let text = String::from_utf8_lossy(&rest[..whole]).into_owned();
        let mut left = text.as_str();
        while let Some(character) = left.chars().next() {
            let after = &left[character.len_utf8()..];
            if character != '\x1b' {
                self.put(character);
                left = after;
                continue;
            }
            let Some(sequence) = after.strip_prefix('[') else {
                left = after;
                continue;
            };
            let Some(end) = sequence.find(|c: char| ('\x40'..='\x7e').contains(&c)) else { break };
            self.control(&sequence[..end], &sequence[end..=end]);
            left = &sequence[end + 1..];
        }
        self.rest = [left.as_bytes(), &rest[whole..]].concat();
    }

    fn put(&mut self, character: char) {
        match character {
            '\r' => self.column = 0,
            '\n' => self.row += 1,
            _ => {
                if let Some(cell) = self.cells.get_mut(self.row).and_then(|row| row.get_mut(self.column)) {
                    *cell = character;
                }
                self.column += 1;
            }
        }
    }

    fn control(&mut self, parameters: &str, end: &str) {
        match end {
            "H" => {
                let mut numbers = parameters.split(';').map(|number| number.parse().unwrap_or(1usize));
                self.row = numbers.next().unwrap_or(1).saturating_sub(1);
                self.column = numbers.next().unwrap_or(1).saturating_sub(1);
            }
            "J" => self.cells.iter_mut().flatten().for_each(|cell| *cell = ' '),
            _ => {}
        }
    }
}
