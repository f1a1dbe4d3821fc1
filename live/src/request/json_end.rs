//! Determines whether a JSON text that arrives in pieces is complete.

/// The state after some bytes of a JSON text. It counts brackets outside strings, which is all that the end needs.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct JsonEnd {
    depth: u32,
    in_string: bool,
    escaped: bool,
    has_begun: bool,
}

impl JsonEnd {
    /// Reads the next bytes.
    pub(crate) fn feed(&mut self, data: &[u8]) {
        for &byte in data {
            if self.in_string {
                match byte {
                    _ if self.escaped => self.escaped = false,
                    b'\\' => self.escaped = true,
                    b'"' => self.in_string = false,
                    _ => {}
                }
                continue;
            }
            self.has_begun |= !byte.is_ascii_whitespace();
            match byte {
                b'"' => self.in_string = true,
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' => self.depth = self.depth.saturating_sub(1),
                _ => {}
            }
        }
    }

    /// Whether the text may end here.
    pub(crate) fn is_complete(&self) -> bool {
        self.has_begun && self.depth == 0 && !self.in_string
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_text_is_complete_at_its_end_and_not_before(text in ".{0,20}", n in 0u8..200, size in 1usize..9) {
            let value = serde_json::json!({"a": [text, n, {"b": null, "}": "]"}]}).to_string();
            let mut end = JsonEnd::default();
            for piece in value.as_bytes()[..value.len() - 1].chunks(size) {
                end.feed(piece);
                prop_assert!(!end.is_complete());
            }
            end.feed(b"}\n");
            prop_assert!(end.is_complete());
        }
    }
}
