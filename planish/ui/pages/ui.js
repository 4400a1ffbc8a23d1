// Refreshes the page of a running run, looks at the images of a new one, and moves the limit of a finished one.
const every = 2000

async function refresh(part) {
  const answer = await fetch(`/runs/now?id=${encodeURIComponent(part.dataset.id)}`)
  if (!answer.ok) return
  const opened = [...part.querySelectorAll("details")].map((one) => one.open)
  const html = await answer.text()
  if (!html.includes(">running<")) return location.reload()
  part.innerHTML = html
  part.querySelectorAll("details").forEach((one, i) => { if (i in opened) one.open = opened[i] })
  document.querySelector("#status").textContent = part.querySelector(".stage")?.textContent ?? ""
}

const now = document.querySelector("#now")
if (now?.dataset.state === "running") setInterval(() => refresh(now).catch(() => {}), every)
if (document.querySelector("#starting")) setTimeout(() => location.reload(), every)

const form = document.querySelector("#new")
if (form) {
  let waiting, asked = 0
  const look = async () => {
    const mine = ++asked
    const answer = await fetch("/new/look", { method: "POST", body: new URLSearchParams(new FormData(form)) })
    if (answer.ok && mine === asked) document.querySelector("#look").innerHTML = await answer.text()
  }
  form.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(() => look().catch(() => {}), 400) })
  if (form.elements.data.value) look().catch(() => {})
}

const limit = document.querySelector("#limit")
if (limit) {
  const choose = () => {
    document.querySelector("#limit-text").textContent = `${Number(limit.value).toFixed(1)} ${limit.dataset.unit}`
    const rows = [...document.querySelectorAll("#candidates tbody tr")]
    rows.forEach((row) => row.classList.remove("would"))
    const within = rows.filter((row) => row.dataset.drop !== "" && Number(row.dataset.drop) <= Number(limit.value))
    const best = within.sort((a, b) => b.dataset.speedUp - a.dataset.speedUp)[0]
    best?.classList.add("would")
    document.querySelector("#would-ship").textContent = best ? `${best.cells[0].textContent}, ${best.cells[1].textContent}` : "none of them"
  }
  limit.addEventListener("input", choose)
  choose()
}

const image = document.querySelector("#image")
if (image) {
  const ask = async (file) => {
    const place = document.querySelector("#answers")
    place.textContent = `${file.name} ...`
    const answer = await fetch(`/runs/answers?id=${encodeURIComponent(image.dataset.id)}`, { method: "POST", body: file })
    if (answer.ok) place.innerHTML = await answer.text()
    else place.textContent = await answer.text()
  }
  image.addEventListener("change", () => { if (image.files[0]) ask(image.files[0]).catch((error) => alert(error)) })
  addEventListener("dragover", (event) => event.preventDefault())
  addEventListener("drop", (event) => {
    event.preventDefault()
    const file = event.dataTransfer.files[0]
    if (file) ask(file).catch((error) => alert(error))
  })
}
