//! Signs of known failures, with their meaning and remedy.

use crate::error::{Error, Kind};

struct Known {
    /// Words of a log or of a command's output; any one of them is the sign.
    signs: &'static [&'static str],
    meaning: &'static str,
    remedy: &'static str,
}

const KNOWN: &[Known] = &[
    Known {
        signs: &["Not enough memory. Please try to increase --mem-fraction-static"],
        meaning: "the weights leave too little GPU memory for the KV cache",
        remedy: "raise --mem-fraction-static or use more GPUs (--tp)",
    },
    Known {
        signs: &["torch.OutOfMemoryError", "CUDA out of memory", "Capture cuda graph failed"],
        meaning: "the GPU ran out of memory",
        remedy: "lower --mem-fraction-static or use more GPUs (--tp)",
    },
    Known {
        signs: &["GatedRepoError", "is restricted", "401 Client Error", "403 Client Error"],
        meaning: "the model is gated and this token has no access",
        remedy: "accept the model's terms on its page, then set HF_TOKEN",
    },
    Known {
        signs: &[
            "unsatisfied condition: cuda>=",
            "unsupported display driver / cuda driver combination",
            "driver on your system is too old",
            "CUDA driver version is insufficient",
        ],
        meaning: "the image needs a newer NVIDIA driver",
        remedy: "choose an image for the node's CUDA version with --image",
    },
    Known {
        signs: &["Driver/library version mismatch"],
        meaning: "the NVIDIA driver was updated and the old one is still loaded",
        remedy: "reboot the node, then run set-up again",
    },
    Known {
        signs: &["Failed to initialize NVML: Unknown Error"],
        meaning: "a daemon-reload took the GPUs from the container",
        remedy: "run set-up again: it starts the container anew",
    },
    Known {
        signs: &["could not select device driver", "unknown or invalid runtime name: nvidia"],
        meaning: "Docker has no NVIDIA runtime",
        remedy: "install nvidia-container-toolkit and restart Docker",
    },
    Known {
        signs: &[
            "port is already allocated",
            "is not available in 30 seconds",
            "ddress already in use",
            "cannot listen on",
        ],
        meaning: "another process has the port",
        remedy: "stop that process or choose another port",
    },
    Known {
        signs: &["o space left on device", "os error 28"],
        meaning: "the disk is full",
        remedy: "free space on the node or use a larger machine",
    },
    Known {
        signs: &["a password is required", "is not in the sudoers file", "may not run sudo"],
        meaning: "the user may not use sudo without a password",
        remedy: "allow passwordless sudo, or add the user to the group `docker`",
    },
    Known {
        signs: &["permission denied while trying to connect to the Docker daemon"],
        meaning: "the user may not use Docker",
        remedy: "allow passwordless sudo, or add the user to the group `docker` and log in again",
    },
    Known {
        signs: &["SIGQUIT received"],
        meaning: "a child process of the engine died",
        remedy: "look for the first error above this line in the engine's log",
    },
    Known {
        signs: &["toomanyrequests", "pull rate limit"],
        meaning: "the image registry limits pulls from this address",
        remedy: "log in to the registry on the node, or wait",
    },
    Known {
        signs: &["manifest unknown", "manifest for"],
        meaning: "the registry has no such image",
        remedy: "check the image's name and tag",
    },
];

/// The known failure in `text`, or one of `kind` with `meaning` and the text as its sign.
pub fn explain(text: &str, kind: Kind, meaning: &str) -> Error {
    known(text).unwrap_or_else(|| {
        let sign = if text.is_empty() { "no output" } else { text };
        Error::new(kind, sign, meaning, "look at the node's logs, correct the cause, run the command again")
    })
}

/// The known failure in `text`. The first line with a sign is shown.
pub fn known(text: &str) -> Option<Error> {
    let found = text.lines().find_map(|line| {
        let known = KNOWN.iter().find(|known| known.signs.iter().any(|sign| line.contains(sign)))?;
        Some((line.trim(), known))
    });
    let (line, known) = found?;
    let line: String = line.chars().take(300).collect();
    Some(Error::new(Kind::SetUp, line, known.meaning, known.remedy))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_sign_is_explained_and_another_is_shown_as_it_is() {
        let log = "loading\nRuntimeError: Not enough memory. Please try to increase --mem-fraction-static.\nend";
        let error = known(log).unwrap();
        assert!(error.sign.starts_with("RuntimeError: Not enough memory"));
        assert!(error.remedy.contains("--mem-fraction-static"));
        let other = explain("odd", Kind::Command, "it failed");
        assert_eq!((other.sign.as_str(), other.meaning.as_str()), ("odd", "it failed"));
    }
}
