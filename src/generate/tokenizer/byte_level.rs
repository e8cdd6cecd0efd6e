//! GPT-2's byte-level BPE from a GGUF file, which gives only the family name of its pre-tokenizer.

use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::unicode::NFC;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{SplitDelimiterBehavior, Tokenizer};

use crate::checkpoint::text::AddedToken;
use crate::error::{Error, Result};

/// The patterns that cut text into words before merging: each pattern cuts the pieces of the previous one.
struct Family {
    /// The values of `tokenizer.ggml.pre` for this family.
    names: &'static [&'static str],
    patterns: &'static [&'static str],
    /// Words that are in the vocabulary are not built by merging.
    ignore_merges: bool,
    /// Whether letters and their marks are composed first, by Unicode's NFC.
    nfc: bool,
    /// Whether BOS is added when the file does not say.
    add_bos: bool,
}

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Qwen 1 uses this pattern too.
pub const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|",
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);

const FAMILIES: &[Family] = &[
    Family {
        names: &["default"],
        patterns: &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"],
        ignore_merges: false,
        nfc: false,
        add_bos: false,
    },
    Family {
        names: &["gpt-2", "gpt2", "phi-2", "mpt", "olmo", "jais", "trillion", "granite-docling"],
        patterns: &[GPT2],
        ignore_merges: false,
        nfc: false,
        add_bos: false,
    },
    Family {
        names: &["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"],
        patterns: &[r"\p{N}", GPT2],
        ignore_merges: false,
        nfc: false,
        add_bos: false,
    },
    Family {
        names: &["llama-bpe", "llama3", "llama-v3", "falcon3"],
        patterns: &[LLAMA3],
        ignore_merges: true,
        nfc: false,
        add_bos: true,
    },
    Family { names: &["dbrx", "smaug-bpe"], patterns: &[LLAMA3], ignore_merges: false, nfc: false, add_bos: false },
    Family { names: &["qwen2"], patterns: &[QWEN2], ignore_merges: false, nfc: true, add_bos: false },
    Family {
        names: &["deepseek-r1-qwen", "stablelm2", "hunyuan"],
        patterns: &[QWEN2],
        ignore_merges: false,
        nfc: false,
        add_bos: false,
    },
    Family { names: &["gpt-4o", "llama4"], patterns: &[GPT4O], ignore_merges: false, nfc: false, add_bos: false },
    Family {
        names: &["falcon"],
        patterns: &[r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]"],
        ignore_merges: false,
        nfc: false,
        add_bos: false,
    },
];

/// Builds the tokenizer of the file `name`. Also returns whether its family adds BOS if the file does not say.
pub fn build(
    name: &str,
    pre: &str,
    tokens: &[String],
    merges: &[String],
    added: &[AddedToken],
) -> Result<(Tokenizer, bool)> {
    let family = FAMILIES.iter().find(|family| family.names.contains(&pre)).ok_or_else(|| {
        let known: Vec<&str> = FAMILIES.iter().flat_map(|family| family.names).copied().collect();
        Error::unsupported(format!("{name}: unknown pre-tokenizer family `{pre}`; dunlin knows {}", known.join(", ")))
    })?;
    let malformed = |error: tokenizers::Error| {
        Error::checkpoint(format!("{name}: the byte-level tokenizer is malformed")).caused_by(error)
    };

    let mut vocabulary = Vocab::with_capacity(tokens.len());
    for (id, token) in (0u32..).zip(tokens) {
        vocabulary.entry(token.clone()).or_insert(id);
    }
    let merges = merges
        .iter()
        .map(|merge| {
            // Tokens contain no plain space: they spell it Ġ.
            let (left, right) = merge.split_once(' ').ok_or_else(|| {
                Error::checkpoint(format!("{name}: merge `{merge}` is not two tokens with a space between"))
            })?;
            Ok((left.to_owned(), right.to_owned()))
        })
        .collect::<Result<Vec<_>>>()?;
    let model = BPE::builder()
        .vocab_and_merges(vocabulary, merges)
        .ignore_merges(family.ignore_merges)
        .build()
        .map_err(malformed)?;

    let mut steps: Vec<PreTokenizerWrapper> = Vec::new();
    for pattern in family.patterns {
        let pattern = SplitPattern::Regex((*pattern).to_owned());
        steps.push(Split::new(pattern, SplitDelimiterBehavior::Isolated, false).map_err(malformed)?.into());
    }
    steps.push(ByteLevel::new(false, false, false).into());

    let mut tokenizer = Tokenizer::new(model);
    tokenizer.with_normalizer(family.nfc.then_some(NFC)).map_err(malformed)?;
    tokenizer.with_pre_tokenizer(Some(Sequence::new(steps)));
    tokenizer.with_decoder(Some(ByteLevel::default()));
    let added = added.iter().map(|token| {
        tokenizers::AddedToken::from(token.text.as_str(), token.special)
            .normalized(false)
            .lstrip(token.lstrip)
            .rstrip(token.rstrip)
    });
    tokenizer.add_tokens(added).map_err(malformed)?;
    Ok((tokenizer, family.add_bos))
}

/// The bytes that a token's text spells: GPT-2 writes every byte as a printable character of its own.
pub fn bytes(token: &str) -> Vec<u8> {
    let spelled: Option<Vec<u8>> = token.chars().map(byte).collect();
    // Added tokens are ordinary text, so their bytes are taken unchanged.
    spelled.unwrap_or_else(|| token.as_bytes().to_vec())
}

/// Printable Latin-1 stands for itself; the other 68 bytes are U+0100 and up, in order.
fn byte(char: char) -> Option<u8> {
    let code = char as u32;
    match code {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => Some(code as u8),
        0x100..=0x120 => Some((code - 0x100) as u8),
        0x121..=0x142 => Some((code - 0x121 + 0x7f) as u8),
        0x143 => Some(0xad),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_its_character() {
        let mut seen: Vec<u8> = ByteLevel::alphabet().into_iter().filter_map(byte).collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..=255).collect::<Vec<u8>>());
        assert_eq!(bytes("ĠHelloĊ"), b" Hello\n");
        assert_eq!(bytes("<two words>"), b"<two words>");
    }

    #[test]
    fn every_pattern_compiles_and_an_unknown_family_lists_the_known() {
        let tokens: Vec<String> = ByteLevel::alphabet().into_iter().map(String::from).collect();
        for family in FAMILIES {
            let (tokenizer, _) = build("x.gguf", family.names[0], &tokens, &[], &[]).unwrap();
            let ids = tokenizer.encode_fast("It's 12345  tokens,\n\n don't", false).unwrap();
            assert_eq!(ids.len(), 27, "{}", family.names[0]);
        }
        let error = build("x.gguf", "martian", &tokens, &[], &[]).unwrap_err().to_string();
        assert!(error.contains("x.gguf") && error.contains("martian") && error.contains("smollm"), "{error}");
    }

    #[test]
    fn families_cut_where_theirs_do() {
        // All words of up to three characters are tokens, so the ids show where the text was cut.
        let cut = |pre: &str, text: &str| -> Vec<String> {
            let alphabet = tokenizers::PreTokenizedString::from(text);
            let (tokenizer, _) = build("x.gguf", pre, &["a".to_owned()], &[], &[]).unwrap();
            let mut pieces = alphabet;
            tokenizers::PreTokenizer::pre_tokenize(tokenizer.get_pre_tokenizer().unwrap(), &mut pieces).unwrap();
            let splits = pieces.get_splits(tokenizers::OffsetReferential::Original, tokenizers::OffsetType::Byte);
            splits.into_iter().map(|(_, range, _)| text[range.0..range.1].to_owned()).collect()
        };
        assert_eq!(cut("gpt-2", "a  bc 123!"), ["a", " ", " bc", " 123", "!"]);
        assert_eq!(cut("smollm", "a  bc 123!"), ["a", " ", " bc", " ", "1", "2", "3", "!"]);
        assert_eq!(cut("llama-bpe", "it'S 12345\n\n x"), ["it", "'S", " ", "123", "45", "\n\n", " x"]);
        assert_eq!(cut("qwen2", "12 34"), ["1", "2", " ", "3", "4"]);
        assert_eq!(cut("default", "12345, x"), ["123", "45", ",", " x"]);
    }
}
