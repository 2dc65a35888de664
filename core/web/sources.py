"""Where web images come from: candidates of each class, from folders, lists of addresses, Flickr or a search engine.

A source is a function from a class index to an iterator over Candidate, always in the same order where it can be.
"""
import collections
import functools
import json
import logging
import os
import pathlib
import queue
import types
from typing import Any, Callable, Dict, Iterable, Iterator, List, Mapping, NamedTuple, Optional, Sequence
from urllib.parse import quote, urlencode, urljoin

from core.classes import BACKGROUND
from core.config import Config
from core.errors import UserError
from core.io.files import list_folder, parse_json, read_lines, read_yaml, walk
from core.io.logs import logger
from core.web.downloader import Rejected


class Candidate(NamedTuple):
    """An image that may be downloaded.

    Attributes:
        source: "folder", "urls", "flickr" or the search engine.
        query: the words that found it.
        page: where people see it.
    """
    class_index: int
    source: str
    url: str
    query: Optional[str] = None
    page: Optional[str] = None
    licence: Optional[str] = None


Source = Callable[[int], Iterable[Candidate]]

LICENCES = ("noncommercial", "commercial", "noncommercial,modify", "commercial,modify")
ENGINES = {"bing": "BingImageCrawler", "baidu": "BaiduImageCrawler"}
FLICKR = "https://api.flickr.com/services/rest/"
_RESULTS = 1000  # that a search engine gives
_FLICKR_PAGES = 8  # of 500: Flickr gives no more than 4,000 results
_FLICKR_SIZES = "mzclo"  # medium, 640, 800, large, original


def read_queries(path: Optional[str], config: Config) -> Dict[int, List[str]]:
    """Query words of each class: dict from class index to list of str.

    Args:
        path: YAML file, name of a class -> a query or a list of queries; None, and for classes that are not in it: the
            name of the class.
    """
    queries = {index: [name] for index, name in enumerate(config.classes) if index != BACKGROUND}
    values = {} if path is None else read_yaml(path)
    if not isinstance(values, dict):
        raise UserError(f"{path} holds no lines like 'sofa: [sofa, couch]'")
    for name, words in values.items():
        if not isinstance(words, (str, list)) or not words or not all(word and isinstance(word, str) for word in words):
            raise UserError(f"{path}: the queries of {name} are a list of texts, not {words!r}")
        queries[_class_index(config, name, path)] = [words] if isinstance(words, str) else words
    return queries


def folder_source(config: Config, folder: str) -> Source:
    """All files in and below folder/<class name>, in the order of their paths."""
    folders = _entries_of_classes(config, folder, "")

    def candidates(class_index: int) -> Iterator[Candidate]:
        for below, names in walk(folders[class_index]) if class_index in folders else ():
            for path in (os.path.join(below, name) for name in names):
                if os.path.isfile(path):
                    yield Candidate(class_index, "folder", pathlib.Path(os.path.abspath(path)).as_uri())
    return candidates


def url_source(config: Config, path: str) -> Source:
    """Addresses of a folder's <class name>.txt, one a line, or of a JSON lines file such as web_manifest.jsonl.

    Lines of a .txt that start with # are left out. A JSON line has "class" and "url", and may have "query", "page" and
    "licence"; with a "status" other than "kept" it is left out.

    Raises:
        UserError: no class has a list there, or a line is no such JSON.
    """
    if os.path.isdir(path):
        lists = {index: read_lines(file) for index, file in _entries_of_classes(config, path, ".txt").items()}
        return lambda class_index: (Candidate(class_index, "urls", line) for line in lists.get(class_index, ())
                                    if not line.startswith("#"))

    listed = collections.defaultdict(list)
    for number, line in enumerate(read_lines(path), 1):
        where = f"{path}, line {number}"
        try:
            row = parse_json(line)
            index = _class_index(config, row["class"], where)
            if not isinstance(row["url"], str):
                raise ValueError("url is not text")
            if row.get("status", "kept") == "kept":
                listed[index].append(Candidate(index, "urls", row["url"], row.get("query"), row.get("page"),
                                               row.get("licence")))
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f'{where}: {{"class": <name of a class>, "url": ...}} is expected ({type(error).__name__}: '
                            f'{error})') from error
    return lambda class_index: iter(listed[class_index])


def flickr_source(config: Config, queries: Mapping[int, Sequence[str]], get: Callable[[str], bytes], key: str,
                  licence: Optional[str] = None, base: str = FLICKR) -> Source:
    """Photos that Flickr finds for the queries, most relevant first, in the smallest size that is large enough.

    Args:
        get: function from an address to its content; raises Rejected.
        licence: one of LICENCES, or None for any.

    Raises:
        UserError: Flickr is not to be reached, or refuses the key.
    """
    def ask(method, read, **values):
        """What `read` finds in the answer."""
        values.update(method="flickr." + method, api_key=key, format="json", nojsoncallback=1)
        try:
            answer = json.loads(get(base + "?" + urlencode(sorted(values.items()))))
            if answer["stat"] == "ok":
                return read(answer)
            reason = f"{answer.get('message')} (code {answer.get('code')})"
        except Rejected as error:
            reason = str(error)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            reason = "it answers with something other than its API's JSON"
        reason = reason.replace(key, "<key>")
        raise UserError(f"Flickr can't be queried: {reason}; check the key and the network; the same command continues "
                        "from here")

    terms = ask("photos.licenses.getInfo", lambda answer: {
        str(row["id"]): row.get("url") or row.get("name") for row in answer["licenses"]["license"]})
    allowed = {} if licence is None else {"license": ",".join(
        number for number, address in sorted(terms.items()) if _permits(address, licence))}

    extras = ",".join(["license"] + ["url_" + size for size in _FLICKR_SIZES])

    def photos_of(answer, class_index, query):
        """(candidates, number of pages)"""
        photos = answer["photos"]
        sized = [(photo, _flickr_size(photo, config.web_longest_side)) for photo in photos["photo"]]
        return [Candidate(class_index, "flickr", url, query,
                          f"https://www.flickr.com/photos/{photo.get('owner')}/{photo.get('id')}",
                          terms.get(str(photo.get("license"))))
                for photo, url in sized if url], int(photos.get("pages", 0))

    def candidates(class_index):
        for query in queries[class_index]:
            read = functools.partial(photos_of, class_index=class_index, query=query)
            for page in range(1, _FLICKR_PAGES + 1):
                photos, pages = ask("photos.search", read, text=query, media="photos", content_types=0,
                                    sort="relevance", per_page=500, page=page, extras=extras, **allowed)
                yield from photos
                if page >= pages:
                    break
    return candidates


def _permits(address, licence):
    """Whether a Creative Commons licence, known by its address, permits what is wanted."""
    if not address or "creativecommons.org" not in address:
        return False
    terms = address.split("creativecommons.org", 1)[1].split("/")
    terms = terms[2].split("-") if len(terms) > 2 else []
    return not ("commercial" in licence.split(",") and "nc" in terms or "modify" in licence and "nd" in terms)


def _flickr_size(photo, longest_side):
    sizes = []
    for size in _FLICKR_SIZES:
        if photo.get("url_" + size):
            longest = max(int(photo.get(side + size) or 0) for side in ("width_", "height_"))
            sizes.append((longest < longest_side, abs(longest - longest_side), photo["url_" + size]))
    return min(sizes)[2] if sizes else None


def search_source(queries: Mapping[int, Sequence[str]], get: Callable[[str, Mapping[str, str]], bytes], engine: str,
                  licence: Optional[str] = None) -> Source:
    """Up to 1,000 addresses that a search engine shows for each query; icrawler knows its pages.

    A page is asked for when the addresses of those before it are used up, so a class that is full asks for no more.

    Args:
        get: function from an address and headers to its content; raises Rejected.
        engine: key of ENGINES.
        licence: one of LICENCES, or None for any; Bing only.

    Raises:
        UserError: icrawler is not installed, the engine knows no licences, or it can't be asked.
    """
    try:
        import icrawler.builtin
    except ImportError as error:
        raise UserError(f"--search needs icrawler: pip install -r dependencies.txt ({error})") from error
    if licence and engine != "bing":
        raise UserError(f"--licence: {engine} has no filter for it; bing and --flickr have")

    def candidates(class_index):
        for query in queries[class_index]:
            crawler = getattr(icrawler.builtin, ENGINES[engine])(log_level=logging.CRITICAL)
            for url in _shown(crawler, get, engine, query, {"license": licence} if licence else None):
                yield Candidate(class_index, engine, url, query)
    return candidates


def _shown(crawler, get, engine, query, filters):
    """The addresses on an engine's pages for a query, each once, until two pages in a row show no new one."""
    crawler.feeder.out_queue = queue.SimpleQueue()  # its own blocks when it holds five pages
    crawler.feeder.feed(quote(query), 0, _RESULTS, filters)
    seen, barren, reason = set(), 0, "no addresses on its pages"
    while barren < 2 and not crawler.feeder.out_queue.empty():
        page = crawler.feeder.out_queue.get()
        try:
            content = get(page, dict(crawler.session.headers, Referer=urljoin(page, "/")))
        except Rejected as error:
            if not seen:
                raise UserError(f"{engine} can't be queried for {query!r}: {error}; check the network, or use your own "
                                "lists (--urls); the same command continues from here") from error
            logger.warning("%s stops after %d addresses for %r: %s", engine, len(seen), query, error)
            return
        shown = []
        try:
            shown.extend(task["file_url"] for task in crawler.parser.parse(
                types.SimpleNamespace(content=content)))
        except Exception as error:  # the engine answers with something other than the parser expects
            reason = f"{type(error).__name__}: {error}"
        fresh = [url for url in dict.fromkeys(shown) if url not in seen]
        seen.update(fresh)
        barren = 0 if fresh else barren + 1
        yield from fresh
    if not seen:
        logger.warning("%s shows nothing for %r (%s): it may have changed its pages (try a newer icrawler) or block "
                       "this machine; your own lists, --urls, always work", engine, query, reason)


def _class_index(config: Config, name: Any, where: Optional[str]) -> int:
    """Index of the class that a file names."""
    try:
        index = config.class_index(str(name))
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    if index == BACKGROUND:
        raise UserError(f"{where}: {name!r} is the background; setting classes lists it first, and then the classes")
    return index


def _entries_of_classes(config: Config, folder: str, ending: str) -> Dict[int, str]:
    """Dict from class index to <class name><ending> in a folder, a file or, with no ending, a folder.

    Warns of everything else, and of classes that have none.
    """
    expected = f"<class name>{ending or '/'} for each class is expected"
    if not os.path.isdir(folder):
        raise UserError(f"{folder} is not a folder; one with {expected}")
    entries, others = {}, []
    for name in list_folder(folder):
        path = os.path.join(folder, name)
        if name.startswith("."):
            continue
        if not name.endswith(ending) or not (os.path.isfile if ending else os.path.isdir)(path):
            others.append(path)
            continue
        try:
            entries[_class_index(config, name[:len(name) - len(ending)], path)] = path
        except UserError as error:
            logger.warning("left out: %s", error)
    if not entries:
        raise UserError(f"{folder} holds none of {config.classes[1]}{ending} ... {config.classes[-1]}{ending}: "
                        + expected)
    if others:
        logger.warning("%d entries of %s are left out, such as %s: %s", len(others), folder, others[0], expected)
    missing = [name for index, name in enumerate(config.classes) if index != BACKGROUND and index not in entries]
    if missing:
        logger.warning("%s has nothing for: %s", folder, ", ".join(missing))
    return entries
