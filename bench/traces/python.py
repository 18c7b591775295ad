import json, re, collections
words = collections.Counter()
docs = [{"id": i, "name": f"item {i}", "tags": [f"t{i % 7}", f"u{i % 11}"], "price": i * 1.25} for i in range(3000)]
text = json.dumps(docs)
for d in json.loads(text):
    for w in re.findall(r"\w+", json.dumps(d)):
        words[w] += 1
tree = {}
for w, n in words.items():
    t = tree
    for c in w[:6]:
        t = t.setdefault(c, {})
    t[""] = n
print(len(words), len(text))
