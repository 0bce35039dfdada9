//! Values of parameters that are arrays of one dimension: from their form in the protocol to the values of their elements.

/// Maximum number of elements. Each becomes a parameter of its own.
const ELEMENTS_MAX: usize = 10_000;

/// The bytes of the elements of an array; None is a null.
pub(super) type Elements = Vec<Option<Vec<u8>>>;

/// Returns the elements of an array in binary form.
///
/// # Errors
/// If the bytes are not an array, or it has several dimensions or too many elements.
pub(super) fn of_binary(bytes: &[u8]) -> Result<Elements, String> {
    let mut rest = bytes;
    let mut next = || -> Result<i32, String> {
        let (word, after) = rest.split_first_chunk::<4>().ok_or("it ends within an array")?;
        rest = after;
        Ok(i32::from_be_bytes(*word))
    };
    // Dimensions, a flag for nulls, and the type of the elements, which is that of the parameter.
    let (dimensions, _, _) = (next()?, next()?, next()?);
    let count = match dimensions {
        0 => 0,
        1 => {
            let count = next()?;
            next()?;
            usize::try_from(count).map_err(|_| "it has a negative number of elements".to_string())?
        }
        _ => return Err(several()),
    };
    check_count(count)?;
    let mut elements = Vec::with_capacity(count);
    for _ in 0..count {
        let (word, after) = rest.split_first_chunk::<4>().ok_or("it ends within an array")?;
        rest = after;
        let length = i32::from_be_bytes(*word);
        if length == -1 {
            elements.push(None);
            continue;
        }
        let length = usize::try_from(length).map_err(|_| "an element has a negative length".to_string())?;
        let (element, after) = rest.split_at_checked(length).ok_or("it ends within an element")?;
        rest = after;
        elements.push(Some(element.to_vec()));
    }
    if rest.is_empty() { Ok(elements) } else { Err("it has bytes after its last element".to_string()) }
}

/// Returns the elements of an array in the form `{a,"b c",NULL}`.
///
/// # Errors
/// If the text is not an array, or it has several dimensions or too many elements.
pub(super) fn of_text(bytes: &[u8]) -> Result<Elements, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "it is not valid UTF-8".to_string())?;
    let misfit = || "it is not an array in the form {a,b}".to_string();
    let inner = text.trim().strip_prefix('{').and_then(|text| text.strip_suffix('}')).ok_or_else(misfit)?;
    let mut elements = Vec::new();
    let mut characters = inner.chars().peekable();
    if inner.trim().is_empty() {
        return Ok(elements);
    }
    loop {
        while characters.next_if(|character| character.is_whitespace()).is_some() {}
        let (mut value, mut is_quoted) = (String::new(), false);
        if characters.next_if_eq(&'"').is_some() {
            is_quoted = true;
            loop {
                match characters.next().ok_or_else(misfit)? {
                    '"' => break,
                    '\\' => value.push(characters.next().ok_or_else(misfit)?),
                    other => value.push(other),
                }
            }
            while characters.next_if(|character| character.is_whitespace()).is_some() {}
        } else {
            while let Some(character) = characters.next_if(|character| *character != ',') {
                match character {
                    '{' | '}' => return Err(several()),
                    '"' => return Err(misfit()),
                    '\\' => value.push(characters.next().ok_or_else(misfit)?),
                    other => value.push(other),
                }
            }
            value.truncate(value.trim_end().len());
            if value.is_empty() {
                return Err(misfit());
            }
        }
        let is_null = !is_quoted && value.eq_ignore_ascii_case("null");
        elements.push((!is_null).then(|| value.into_bytes()));
        check_count(elements.len())?;
        match characters.next() {
            None => return Ok(elements),
            Some(',') => {}
            Some(_) => return Err(misfit()),
        }
    }
}

fn several() -> String {
    "it has several dimensions; bind arrays of one".to_string()
}

fn check_count(count: usize) -> Result<(), String> {
    if count > ELEMENTS_MAX {
        return Err(format!("it has more than {ELEMENTS_MAX} elements; put them into a table"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(elements: Elements) -> Vec<Option<String>> {
        elements.into_iter().map(|element| element.map(|bytes| String::from_utf8(bytes).unwrap())).collect()
    }

    #[test]
    fn texts_are_divided_into_elements() {
        let elements = texts(of_text(br#"{a, "b, \"c\"", NULL,"NULL", d e ,"" }"#).unwrap());
        let expected = [Some("a"), Some("b, \"c\""), None, Some("NULL"), Some("d e"), Some("")];
        assert_eq!(elements, expected.map(|text| text.map(str::to_string)));
        assert_eq!(of_text(b" { } ").unwrap(), Elements::new());
        for wrong in ["", "1", "{1", "{1,}", "{,1}", "{\"a}", "{\"a\"b}", "{{1},{2}}", "{a\\"] {
            of_text(wrong.as_bytes()).unwrap_err();
        }
    }

    #[test]
    fn bytes_are_divided_into_elements() {
        let words = |words: &[i32]| words.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<u8>>();
        let found = of_binary(&words(&[1, 1, 23, 3, 1, 4, 7, -1, 4, 8])).unwrap();
        assert_eq!(found, [Some(words(&[7])), None, Some(words(&[8]))]);
        assert_eq!(of_binary(&words(&[0, 0, 23])).unwrap(), Elements::new());
        let wrong: [&[i32]; 8] = [
            &[],
            &[1, 0, 23],
            &[1, 0, 23, -1, 1],
            &[1, 0, 23, 1, 1, 5, 1],
            &[1, 0, 23, 1, 1, -2],
            &[1, 0, 23, 1, 1, 4, 1, 1],
            &[2, 0, 23, 1, 1, 1, 1, 4, 1],
            &[1, 0, 23, i32::MAX, 1],
        ];
        for wrong in wrong {
            of_binary(&words(wrong)).unwrap_err();
        }
    }
}
